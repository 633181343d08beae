//! A pool that is a whole disk or partition: formatted as XFS with reflink, but only if nothing at all is on it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{major, minor};

use super::OpenPoolError;
use super::marker::Marker;
use crate::host::{mounts, tool};

/// Label of a pool's file system. XFS has room for 12 bytes.
const LABEL: &str = "lockstep";

/// What must be zero at both ends: every file system, partition table and RAID format that is known keeps its signature
/// within the first or last MiB.
const END_BYTES: u64 = 1 << 20;

/// Opens the pool, formatting the device if nothing is on it, and mounting it.
pub(super) fn ensure_open(path: &Path, mount_point: &Path, own: &Marker) -> Result<(), OpenPoolError> {
    let there = std::fs::metadata(path).map_err(OpenPoolError::host(path, "look at it"))?;
    if !there.file_type().is_block_device() {
        return Err(OpenPoolError::refused(path, "it is not a block device"));
    }
    let number = format!("{}:{}", major(there.rdev()), minor(there.rdev()));
    if is_mounted(path, mount_point, &number)? {
        return check_marker(path, mount_point, own);
    }
    match observe_signature(path)? {
        None => {
            format(path)?;
            mount_pool(path, mount_point, MsFlags::empty(), "")?;
            Marker { device: true, ..own.clone() }.write(mount_point)
        }
        Some(signature) if signature.label.as_deref() == Some(LABEL) && signature.kind == "xfs" => {
            // Read-only and without replaying the journal: nothing is written before the marker said that it is ours.
            mount_pool(path, mount_point, MsFlags::MS_RDONLY, "norecovery,nouuid")?;
            let checked = check_marker(path, mount_point, own);
            mounts::unmount_lazily(mount_point).map_err(OpenPoolError::host(path, "unmount it"))?;
            checked?;
            mount_pool(path, mount_point, MsFlags::empty(), "nouuid")
        }
        Some(signature) => Err(OpenPoolError::refused(path, format!("the device has {}", signature.text))),
    }
}

fn is_mounted(path: &Path, mount_point: &Path, number: &str) -> Result<bool, OpenPoolError> {
    let mounts = mounts::observe_mounts().map_err(OpenPoolError::host(path, "list the mounts"))?;
    // The last mount over a point is the one that is seen there.
    match mounts.iter().rev().find(|mount| mount.point == mount_point) {
        Some(mount) if mount.device == number => Ok(true),
        Some(mount) => {
            let found = format!("{} is mounted at {}", mount.source, mount_point.display());
            Err(OpenPoolError::refused(path, found))
        }
        None => match mounts.iter().find(|mount| mount.device == number) {
            Some(mount) => Err(OpenPoolError::refused(path, format!("it is mounted at {}", mount.point.display()))),
            None => Ok(false),
        },
    }
}

fn check_marker(path: &Path, mount_point: &Path, own: &Marker) -> Result<(), OpenPoolError> {
    match Marker::read(mount_point)? {
        Some(marker) => marker.check(path, own),
        None => Err(OpenPoolError::refused(path, "the device has a file system without a pool's marker")),
    }
}

/// What identifies the content of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Like `ext4` or `gpt`; `data` if it is unknown.
    pub kind: String,
    /// The file system's label.
    pub label: Option<String>,
    /// In words.
    pub text: String,
}

/// Looks for anything at all on the device (or file) at `path`: signatures that `blkid` knows, and any byte that is not zero
/// in the first and last MiB.
///
/// # Errors
/// It cannot be read, or `blkid` cannot be run.
pub fn observe_signature(path: &Path) -> Result<Option<Signature>, OpenPoolError> {
    let name = path.to_string_lossy();
    // blkid ends with 2 if it finds nothing, with 8 if it finds several things that contradict each other.
    let found = tool::run("blkid", "util-linux", &["--probe", "--output", "export", &name], &[2, 8])
        .map_err(|source| OpenPoolError::Tool { path: path.to_owned(), source })?;
    let value = |key: &str| {
        found.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(|text| text.replace('\\', ""))
    };
    if let Some(kind) = value("TYPE").or_else(|| value("PTTYPE")) {
        let label = value("LABEL");
        let named = label.as_ref().map_or_else(String::new, |label| format!(" (label {label:?})"));
        let text = format!("a signature of {kind}{named}");
        return Ok(Some(Signature { kind, label, text }));
    }
    let at = observe_nonzero(path).map_err(OpenPoolError::host(path, "read it"))?;
    Ok(at.map(|at| {
        let text = format!("data that is not zero at byte {at}");
        Signature { kind: "data".to_owned(), label: None, text }
    }))
}

/// The first byte that is not zero in the first and last MiB.
fn observe_nonzero(path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    for start in [0, size.saturating_sub(END_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        let mut end = Vec::new();
        io::Read::by_ref(&mut file).take(END_BYTES).read_to_end(&mut end)?;
        if let Some(at) = end.iter().position(|byte| *byte != 0) {
            let at = u64::try_from(at).expect("an index within a MiB");
            return Ok(Some(start + at));
        }
    }
    Ok(None)
}

fn format(path: &Path) -> Result<(), OpenPoolError> {
    let name = path.to_string_lossy();
    // Without -f mkfs.xfs itself refuses a device on which it finds anything.
    tool::run("mkfs.xfs", "xfsprogs", &["-q", "-m", "reflink=1", "-L", LABEL, &name], &[])
        .map(|_| ())
        .map_err(|source| OpenPoolError::Tool { path: path.to_owned(), source })
}

fn mount_pool(path: &Path, mount_point: &Path, flags: MsFlags, options: &str) -> Result<(), OpenPoolError> {
    std::fs::create_dir_all(mount_point).map_err(OpenPoolError::host(path, "make its mount point"))?;
    let flags = flags | MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(path), mount_point, Some("xfs"), flags, Some(options))
        .map_err(|error| OpenPoolError::host(path, "mount it")(error.into()))
}
