//! File systems on a device of ours: made, checked, mounted, grown, by their own programs, each with a bound.
//!
//! Read-only mounts are replayed, explicitly: `e2fsck -p` replays the journal of an ext4 before any mount, and XFS replays its log also for
//! a read-only mount, as long as the device itself can be written. Nothing here mounts with `noload` or `norecovery`: what an application was
//! told to be safe may be in the journal only.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use lockstep_csi::capability::Filesystem;

use crate::host::bounded_tool::{RunBoundedError, Tool};

const MKFS_EXT4: Tool = Tool { name: "mkfs.ext4", package: "e2fsprogs" };
const MKFS_XFS: Tool = Tool { name: "mkfs.xfs", package: "xfsprogs" };
const E2FSCK: Tool = Tool { name: "e2fsck", package: "e2fsprogs" };
const RESIZE2FS: Tool = Tool { name: "resize2fs", package: "e2fsprogs" };
const XFS_GROWFS: Tool = Tool { name: "xfs_growfs", package: "xfsprogs" };
const MOUNT: Tool = Tool { name: "mount", package: "mount" };

/// Neither mkfs writes more than a few dozen MiB: longer, and the device hangs.
const MAKE_WITHIN: Duration = Duration::from_secs(300);

/// A full check reads all metadata of a large file system, after errors only. Nobody should find it killed by impatience.
const CHECK_WITHIN: Duration = Duration::from_secs(4 * 3600);

/// Replaying a log that is full takes seconds; a slow mirror may need minutes.
const MOUNT_WITHIN: Duration = Duration::from_secs(600);

/// Growing writes new metadata groups.
const GROW_WITHIN: Duration = Duration::from_secs(600);

/// Codes of e2fsck(8): bits.
const E2FSCK_CORRECTED: i32 = 1;
const E2FSCK_REBOOT: i32 = 2;
const E2FSCK_UNCORRECTED: i32 = 4;

/// How resize2fs(8) tells that the kernel wants CAP_SYS_RESOURCE for growing a mounted ext4 (fs/ext4/resize.c, `ext4_resize_begin`).
const GROWTH_DENIED: &str = "Permission denied to resize filesystem";

/// How mount(8) tells EUCLEAN.
const NEEDS_CLEANING: &str = "Structure needs cleaning";

/// Why a file system is not ready to be used.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It is damaged, in a way that a person has to decide about.
    #[error("{filesystem} is damaged: {message}")]
    Damaged {
        /// Which kind.
        filesystem: Filesystem,
        /// What its program said.
        message: String,
    },
    /// A program did not do it.
    #[error(transparent)]
    Tool(#[from] RunBoundedError),
}

/// Why a file system does not fill its device.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// An ext4 can only be grown while it is mounted by who has the capability CAP_SYS_RESOURCE. Not mounted, it can be grown by anybody.
    #[error(
        "a mounted ext4 can only be grown with CAP_SYS_RESOURCE, which this process lacks: it grows when it is staged again"
    )]
    Denied,
    /// A program did not do it.
    #[error(transparent)]
    Tool(#[from] RunBoundedError),
}

/// Makes a file system on a device that is blank, or that holds an unfinished one (`again`).
///
/// Nothing is discarded first (`nodiscard`, `-K`): a blank volume of a thin pool has nothing to give back, and to discard a terabyte takes
/// many requests on every replica. No blocks are reserved for root (`-m 0`): that is for the file system that a machine runs from, and
/// would take 5 % of what was claimed from pods, which run as any user. The inode tables are zeroed in the background, once mounted: that
/// is done by write-zeroes requests, which a thin pool answers with holes. The journal is zeroed at once, because a stale one could be
/// replayed. ext4 gives up writing at the first error (`errors=remount-ro`): whatever happens after one is a guess.
///
/// # Errors
/// The program fails, also because it finds something that was not there when the caller looked, or because another has the device.
pub async fn make(filesystem: Filesystem, device: &Path, again: bool) -> Result<(), RunBoundedError> {
    let (tool, options): (Tool, &[&str]) = match (filesystem, again) {
        (Filesystem::Ext4, _) => {
            let extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=0";
            (MKFS_EXT4, &["-q", "-m", "0", "-e", "remount-ro", "-E", extended])
        }
        (Filesystem::Xfs, false) => (MKFS_XFS, &["-q", "-K"]),
        (Filesystem::Xfs, true) => (MKFS_XFS, &["-q", "-K", "-f"]),
    };
    let arguments: Vec<&OsStr> = options.iter().map(OsStr::new).chain([device.as_os_str()]).collect();
    tool.run(&arguments, &[], MAKE_WITHIN).await.map(|_| ())
}

/// Makes an existing file system ready to be mounted: replays the journal of an ext4, and checks it if it is marked as having errors. XFS
/// does both when it is mounted, as far as it can be done without a person.
///
/// # Errors
/// It has errors that cannot be corrected without losing something, or the program fails.
pub async fn check(filesystem: Filesystem, device: &Path) -> Result<(), PrepareError> {
    match filesystem {
        Filesystem::Xfs => Ok(()),
        Filesystem::Ext4 => e2fsck(&["-p"], device).await,
    }
}

async fn e2fsck(options: &[&str], device: &Path) -> Result<(), PrepareError> {
    let arguments: Vec<&OsStr> = options.iter().map(OsStr::new).chain([device.as_os_str()]).collect();
    let ended = E2FSCK.end(&arguments, CHECK_WITHIN).await?;
    match ended.code {
        Some(code) if code & !(E2FSCK_CORRECTED | E2FSCK_REBOOT) == 0 => Ok(()),
        Some(code) if code & E2FSCK_UNCORRECTED != 0 => {
            Err(PrepareError::Damaged { filesystem: Filesystem::Ext4, message: ended.message() })
        }
        code => Err(RunBoundedError::Failed { tool: E2FSCK.name, code, message: ended.message() }.into()),
    }
}

/// Mounts. `flags` are passed unchanged. XFS is mounted without looking for another of the same UUID: a node may see the replica of
/// another, a restored copy, or a dead mount of the same volume, none of which is in use by anybody who could write.
///
/// # Errors
/// The file system is damaged, or the program fails.
pub async fn mount(
    filesystem: Filesystem,
    device: &Path,
    point: &Path,
    flags: &[String],
    readonly: bool,
) -> Result<(), PrepareError> {
    let mut options: Vec<&str> = flags.iter().map(String::as_str).collect();
    if filesystem == Filesystem::Xfs {
        options.push("nouuid");
    }
    if readonly {
        options.push("ro");
    }
    let mut arguments: Vec<OsString> = vec!["-t".into(), filesystem.as_str().into()];
    if !options.is_empty() {
        arguments.extend(["-o".into(), options.join(",").into()]);
    }
    arguments.extend([device.into(), point.into()]);
    match MOUNT.run(&arguments, &[], MOUNT_WITHIN).await {
        Ok(_) => Ok(()),
        Err(RunBoundedError::Failed { message, .. }) if message.contains(NEEDS_CLEANING) => {
            Err(PrepareError::Damaged { filesystem, message })
        }
        Err(error) => Err(error.into()),
    }
}

/// Binds what is seen at `from` to `point` as well, with the mount options of `from`.
///
/// # Errors
/// The program fails.
pub async fn bind(from: &Path, point: &Path) -> Result<(), RunBoundedError> {
    MOUNT.run(&[OsStr::new("--bind"), from.as_os_str(), point.as_os_str()], &[], MOUNT_WITHIN).await.map(|_| ())
}

/// Gives the mount at `point` these options and no others. The file system keeps its own.
///
/// # Errors
/// The program fails.
pub async fn protect(point: &Path, options: &[String]) -> Result<(), RunBoundedError> {
    let options = format!("remount,bind,{}", options.join(","));
    MOUNT.run(&[OsStr::new("-o"), OsStr::new(&options), point.as_os_str()], &[], MOUNT_WITHIN).await.map(|_| ())
}

/// Grows a mounted file system to its device. One that fills it already stays as it is; none ever shrinks.
///
/// # Errors
/// This process may not, or the program fails.
pub async fn grow(filesystem: Filesystem, device: &Path, point: &Path) -> Result<(), GrowError> {
    let ended = match filesystem {
        // Without a size: as large as the device. Mounted, it can only grow.
        Filesystem::Ext4 => RESIZE2FS.run(&[device], &[], GROW_WITHIN).await,
        Filesystem::Xfs => XFS_GROWFS.run(&[OsStr::new("-d"), point.as_os_str()], &[], GROW_WITHIN).await,
    };
    match ended {
        Ok(_) => Ok(()),
        Err(RunBoundedError::Failed { message, .. }) if message.contains(GROWTH_DENIED) => Err(GrowError::Denied),
        Err(error) => Err(error.into()),
    }
}

/// Grows an ext4 to its device that is not mounted. The whole of it is checked first, which resize2fs insists on.
///
/// # Errors
/// It is damaged, or a program fails.
pub async fn grow_unmounted_ext4(device: &Path) -> Result<(), PrepareError> {
    e2fsck(&["-f", "-p"], device).await?;
    RESIZE2FS.run(&[device], &[], GROW_WITHIN).await?;
    Ok(())
}
