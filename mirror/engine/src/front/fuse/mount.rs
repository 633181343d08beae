//! The file system itself: the device descriptor, its mount, its end. Needs no program and no fusermount.
//!
//! It is mounted nowhere: the mount hangs from a descriptor, through which the loop device's file is opened. After that
//! nothing but the loop device keeps it alive, whichever mount namespaces come and go, and nothing is left to be unmounted.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, openat, statx};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

/// Failures to mount.
#[derive(Debug, thiserror::Error)]
pub enum MountFuse {
    /// `/dev/fuse` cannot be opened: the kernel has no FUSE, or the node is missing.
    #[error("cannot open /dev/fuse")]
    OpenDevice(#[source] io::Error),
    /// The file system cannot be made.
    #[error("cannot mount FUSE: {doing}")]
    Mount {
        /// The step.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A connection between the kernel's FUSE and whoever has its device open. May be cloned into another thread.
#[derive(Clone, Debug)]
pub struct FuseConnection {
    device: Arc<OwnedFd>,
    number: u64,
}

/// A file system that is mounted nowhere, until this is dropped. Whoever has a file of it open keeps it alive.
#[derive(Debug)]
pub struct FuseRoot(OwnedFd);

impl FuseRoot {
    /// Opens a file in it. Waits for the server of the file system: not to be called on its thread.
    ///
    /// # Errors
    /// Of `openat(2)`.
    pub fn open(&self, name: &str, writable: bool) -> io::Result<OwnedFd> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        Ok(openat(&self.0, name, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())?)
    }
}

impl FuseConnection {
    /// Opens the device and mounts it. The kernel queues INIT before this returns; nobody has answered it yet.
    pub(crate) fn mount(max_read: u32) -> Result<(FuseConnection, FuseRoot), MountFuse> {
        let failed = |doing| move |errno: rustix::io::Errno| MountFuse::Mount { doing, source: errno.into() };
        // Non-blocking: a request can vanish between readiness and read, and the event loop must not wait for another.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = open("/dev/fuse", flags, Mode::empty()).map_err(|errno| MountFuse::OpenDevice(errno.into()))?;
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen"))?;
        let (fd, max_read) = (device.as_raw_fd().to_string(), max_read.to_string());
        let options = [
            ("source", "lockstep"),
            ("subtype", "lockstep"),
            ("fd", &fd),
            ("rootmode", "40000"),
            ("user_id", "0"),
            ("group_id", "0"),
            ("max_read", &max_read),
        ];
        for (name, value) in options {
            fsconfig_set_string(&context, name, value).map_err(failed("fsconfig"))?;
        }
        fsconfig_create(&context).map_err(failed("create"))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount"))?;
        // Without a question to the server, which is not there yet.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let status = statx(&root, "", flags, StatxFlags::empty()).map_err(failed("statx"))?;
        let connection = FuseConnection { device: Arc::new(device), number: u64::from(status.stx_dev_minor) };
        Ok((connection, FuseRoot(root)))
    }

    /// A connection that an earlier process mounted: its device, and its number.
    #[must_use]
    pub fn adopt(device: OwnedFd, number: u64) -> FuseConnection {
        FuseConnection { device: Arc::new(device), number }
    }

    /// The device's descriptor. All descriptors together keep the connection: it is aborted when the last one is closed.
    #[must_use]
    pub fn device(&self) -> &Arc<OwnedFd> {
        &self.device
    }

    /// Its number in `/sys/fs/fuse/connections`: the minor number of the file system's device.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The name of the file in it: its connection can be found by it, wherever the kernel shows the file.
    #[must_use]
    pub fn file_name(&self, base: &str) -> String {
        format!("{base}#{}", self.number)
    }

    /// False once the file system is gone, or the connection was aborted.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let mut ready = [PollFd::new(self.device.as_fd(), PollFlags::empty())];
        // The kernel answers without waiting.
        let polled = poll(&mut ready, PollTimeout::ZERO);
        let events = ready[0].revents().unwrap_or(PollFlags::empty());
        polled.is_ok() && !events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL)
    }

    /// Fails every request, present and future, without waiting for a server. What is open stays open: the loop device has to
    /// be given up next.
    pub fn abort(&self) {
        // A number that is free again may be somebody else's connection.
        if !self.is_connected() {
            return;
        }
        if let Err(error) = abort_connection(self.number) {
            tracing::warn!(connection = self.number, %error, "fuse_connection_not_aborted");
        }
    }
}

/// Aborts the connection of this number, whose file system must be known to be there: a number that is free is used again. Through a mount
/// of fusectl of our own: it may be mounted nowhere in this namespace.
///
/// # Errors
/// Of the system calls; ENOENT if there is no such connection.
pub fn abort_connection(number: u64) -> io::Result<()> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let control = openat(&root, format!("{number}/abort"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&control, b"1")?;
    Ok(())
}
