//! What a playground leaves on the host outside its directory's files: loop devices and mounts.

use std::path::Path;

use super::host;
use crate::failure::Failure;
use crate::host::{loops, mounts};

/// Releases the loop devices whose files lie under `dir`, and everything that is mounted from them or under `dir`. The
/// processes of the playground are over: nothing that is asked of a dead file system can hang, it fails.
pub(super) fn release_devices(dir: &Path) -> Result<(), Failure> {
    let loops = loops::observe_under(dir).map_err(host("list the loop devices"))?;
    let mounted = mounts::observe_mounts().map_err(host("list the mounts"))?;
    // The last mounted goes first: it may lie on another.
    for mount in mounted.iter().rev().filter(|mount| loops.iter().any(|device| device.device == mount.device)) {
        mounts::unmount_lazily(&mount.point).map_err(host(format!("unmount {}", mount.point.display())))?;
    }
    for device in &loops {
        loops::release(device).map_err(|error| Failure::of_host("release a loop device", &error))?;
    }
    for mount in mounted.iter().rev().filter(|mount| is_below(&mount.point, dir)) {
        mounts::unmount_lazily(&mount.point).map_err(host(format!("unmount {}", mount.point.display())))?;
    }
    Ok(())
}

/// Removes the directory. Nothing may be mounted there any more: files of another file system are never removed.
pub(super) fn remove_tree(dir: &Path) -> Result<(), Failure> {
    let mounted = mounts::observe_mounts().map_err(host("list the mounts"))?;
    if let Some(mount) = mounted.iter().find(|mount| is_below(&mount.point, dir)) {
        let message = format!("{} is still mounted at {}: not removed", mount.source, mount.point.display());
        return Err(Failure::state_forbids(message));
    }
    match std::fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // The directory is itself a mount point, which was there before us and stays, empty.
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(()),
        Err(error) => Err(host(format!("remove {}", dir.display()))(error)),
    }
}

fn is_below(point: &Path, dir: &Path) -> bool {
    point.starts_with(dir) && point != dir
}
