//! The mount itself: the device descriptor, `mount(2)` and its end. Needs no program and no fusermount.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Failures to mount.
#[derive(Debug, thiserror::Error)]
pub enum MountFuse {
    /// `/dev/fuse` cannot be opened: the kernel has no FUSE, or the node is missing.
    #[error("cannot open /dev/fuse")]
    OpenDevice(#[source] io::Error),
    /// `mount(2)` failed.
    #[error("cannot mount FUSE on {}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The mount point is not a directory that can be resolved.
    #[error("mount point {} is not usable", path.display())]
    MountPoint {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A FUSE mount of this process. May be cloned into another thread, from where unmounting is safe: the event loop that
/// serves the mount must never wait for it.
#[derive(Clone, Debug)]
pub struct MountPoint {
    path: PathBuf,
    /// Minor number of the file system's device, which names it in `/sys/fs/fuse/connections`.
    connection: Option<u64>,
}

impl MountPoint {
    /// Opens the device and mounts it on `path`. The kernel queues INIT before this returns; nobody has answered it yet.
    pub(crate) fn mount(path: &Path, max_read: u32) -> Result<(MountPoint, OwnedFd), MountFuse> {
        let usable = |source| MountFuse::MountPoint { path: path.to_owned(), source };
        let path = path.canonicalize().map_err(usable)?;
        // Non-blocking: a request can vanish between readiness and read, and the event loop must not wait for another.
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/fuse")
            .map_err(MountFuse::OpenDevice)?;
        let device = OwnedFd::from(device);
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,max_read={max_read}", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        mount(Some("lockstep"), &path, Some("fuse.lockstep"), flags, Some(options.as_str()))
            .map_err(|source| MountFuse::Mount { path: path.clone(), source })?;
        let connection = connection_number(&path);
        Ok((MountPoint { path, connection }, device))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that stands for the volume.
    #[must_use]
    pub fn volume_file(&self) -> PathBuf {
        self.path.join(super::volume_file::FILE_NAME)
    }

    /// Unmounts; waits for the file system's last requests, so it must be called from a thread that does not serve it.
    ///
    /// # Errors
    /// EBUSY while somebody (a loop device) still holds the file.
    pub fn unmount(&self) -> Result<(), Errno> {
        match umount2(&self.path, MntFlags::UMOUNT_NOFOLLOW) {
            // Not a mount point any more: somebody else was faster.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes the mount out of sight, whoever still uses it. The last step of a forced end, after [`Self::abort`] and the
    /// loop device: what is still open then can no longer be found by its path.
    pub fn hide(&self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }

    /// Fails every request, present and future, without waiting for a server. The mount stays in sight while a loop
    /// device holds the file: give that up next, then [`Self::unmount`] or [`Self::hide`].
    pub fn abort(&self) {
        if let Some(number) = self.connection {
            // Present only where fusectl is mounted; the forced unmount below aborts as well.
            let control = format!("/sys/fs/fuse/connections/{number}/abort");
            let _ = fs::write(control, "1");
        }
        // MNT_FORCE aborts the connection even when the unmount itself is refused because the file is open.
        let _ = umount2(&self.path, MntFlags::MNT_FORCE);
    }
}

/// From `/proc/self/mountinfo`: a `stat` of the mount would be a request to ourselves.
fn connection_number(path: &Path) -> Option<u64> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The last mount on a path is the visible one. Fields: id, parent, major:minor, root, mount point.
    table.lines().rev().find_map(|line| {
        let mut fields = line.split(' ');
        let device = fields.nth(2)?;
        let mounted = fields.nth(1)?;
        let minor = device.split(':').nth(1)?;
        (unescape(mounted) == path.to_str()?).then(|| minor.parse().ok()).flatten()
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs.iter().fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// Takes a mount out of sight that an earlier process left at `path` (its server is gone: every access fails). Loop
/// devices over it come first: [`super::super::LoopDevice::reclaim`].
pub fn clear_stale_mount(path: &Path) {
    let dead = matches!(fs::metadata(path), Err(error) if error.raw_os_error() == Some(libc::ENOTCONN));
    if dead {
        let _ = umount2(path, MntFlags::MNT_DETACH);
    }
}
