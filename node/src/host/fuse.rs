//! FUSE mounts of the engine: their requests can be failed without the engine.

use std::io;
use std::path::Path;

use nix::mount::{MntFlags, umount2};

use crate::host::mounts;

/// Lets every request of every FUSE file system that is mounted at `point` fail, present and future. Waits for nobody; the mounts stay,
/// as long as somebody has files of them open. Nothing is done where no FUSE file system is mounted.
///
/// # Errors
/// The mounts cannot be listed, or the kernel refuses.
pub fn fail_requests(point: &Path) -> io::Result<()> {
    let mounts = mounts::observe_mounts()?;
    for mount in mounts.iter().filter(|mount| mount.point == point && mount.kind.starts_with("fuse")) {
        // Where /sys/fs/fuse/connections is mounted this reaches one that is hidden under another mount at the same point, too.
        if let Some((_, number)) = mount.device.split_once(':') {
            let _ = std::fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
        }
        // MNT_FORCE aborts the connection before anything else, also where the unmount itself is refused because a loop device holds the
        // file. One that nobody holds is unmounted, which is as well.
        match umount2(point, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EBUSY | nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
