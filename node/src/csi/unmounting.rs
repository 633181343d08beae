//! Taking mounts away so that nothing hangs: in order while the device answers, by force once it does not.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use lockstep_csi::volume::VolumeId;
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::Attach;
use crate::host::block_device;
use crate::host::bounded_tool::{RunBoundedError, Tool};
use crate::host::mounts::{self, Mount};

const UMOUNT: Tool = Tool { name: "umount", package: "mount" };

/// How long an unmount may take before it is looked whether the device answers at all.
const UMOUNT_WITHIN: Duration = Duration::from_secs(5);

/// How long a device may take to answer a read of one block before it counts as dead. The engine itself gives a hanging disk up, or fails
/// over to a peer, in less.
pub(super) const PROBE_WITHIN: Duration = Duration::from_secs(5);

/// How long the kernel may take to let go of a file system whose requests all fail.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);

/// Most mounts over each other at one point: more, and somebody mounts as fast as we unmount.
const STACKED_MAX: usize = 16;

/// How the last mount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmounted {
    /// Nothing was mounted, or what was dirty is written.
    InOrder,
    /// The device was dead: what was dirty is lost.
    ByForce,
}

/// Why something is still mounted.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnmountError {
    #[error("the mounts cannot be listed")]
    List(#[source] io::Error),
    #[error(transparent)]
    Umount(RunBoundedError),
    #[error("a lazy unmount failed")]
    Lazily(#[source] io::Error),
    #[error("requests at the dead device cannot be made to fail")]
    FailFast(#[source] lockstep_csi::node_port::Cause),
    #[error("something is mounted there again and again")]
    Stacked,
    #[error("what was dirty is still being written")]
    StillWriting,
}

/// What is seen at `point`: the last of what is mounted there.
pub(super) fn top_mount(point: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts::observe_mounts()?.into_iter().rev().find(|mount| mount.point == point))
}

impl<A: Attach> CsiNode<A> {
    /// Unmounts whatever is at `point`, and waits until what was dirty is written to the volume's device, or until that is known to be dead.
    pub(super) async fn unmount(
        &self,
        volume: &VolumeId,
        point: &Path,
        deadline: Instant,
    ) -> Result<Unmounted, UnmountError> {
        let mut how = Unmounted::InOrder;
        for _ in 0..STACKED_MAX {
            if top_mount(point).map_err(UnmountError::List)?.is_none() {
                return Ok(how);
            }
            // Not by its device: that would unmount it elsewhere, too.
            match UMOUNT.run(&[OsStr::new("--no-canonicalize"), point.as_os_str()], &[], UMOUNT_WITHIN).await {
                Ok(_) => {}
                Err(error @ RunBoundedError::Start { .. }) => return Err(UnmountError::Umount(error)),
                Err(error @ RunBoundedError::Failed { .. }) if self.is_alive(volume).await => {
                    // In use (a pod's process has its working directory there), or gone meanwhile.
                    match top_mount(point).map_err(UnmountError::List)? {
                        None => return Ok(how),
                        Some(_) => return Err(UnmountError::Umount(error)),
                    }
                }
                Err(RunBoundedError::TimedOut { .. }) if self.wait_written(volume, deadline).await? => {}
                Err(RunBoundedError::TimedOut { .. } | RunBoundedError::Failed { .. }) => {
                    tracing::warn!(%volume, point = %point.display(), "unmounted by force: the device does not answer");
                    self.force_unmount(volume, point).await?;
                    how = Unmounted::ByForce;
                }
            }
        }
        Err(UnmountError::Stacked)
    }

    /// Lets all requests fail and takes the mounts at `point` out of sight. Whoever has files open there gets errors.
    pub(super) async fn force_unmount(&self, volume: &VolumeId, point: &Path) -> Result<(), UnmountError> {
        self.attach.fail_fast(volume).await.map_err(UnmountError::FailFast)?;
        for _ in 0..STACKED_MAX {
            if top_mount(point).map_err(UnmountError::List)?.is_none() {
                return Ok(());
            }
            mounts::unmount_lazily(point).map_err(UnmountError::Lazily)?;
        }
        Err(UnmountError::Stacked)
    }

    /// An unmount that takes long has left the name space at once, and writes what was dirty. It is waited for as long as the device answers.
    /// Says whether it ended.
    async fn wait_written(&self, volume: &VolumeId, deadline: Instant) -> Result<bool, UnmountError> {
        let node = self.device_path(volume);
        loop {
            let look_again = Instant::now() + UMOUNT_WITHIN;
            match block_device::wait_unclaimed(&node, look_again).await {
                Ok(true) => return Ok(true),
                Ok(false) if !self.is_alive(volume).await => return Ok(false),
                Ok(false) if Instant::now() >= deadline => return Err(UnmountError::StillWriting),
                Ok(false) => {}
                Err(_) => return Ok(false),
            }
        }
    }

    /// Waits until the kernel has let go of the volume's device, after [`Self::unmount`] or [`Self::force_unmount`].
    pub(super) async fn wait_let_go(&self, volume: &VolumeId) -> bool {
        let deadline = Instant::now() + LET_GO_WITHIN;
        block_device::wait_unclaimed(&self.device_path(volume), deadline).await.unwrap_or(true)
    }

    /// The volume's device answers.
    pub(super) async fn is_alive(&self, volume: &VolumeId) -> bool {
        match block_device::probe(&self.device_path(volume), PROBE_WITHIN).await {
            Ok(()) => true,
            Err(error) => {
                let why = crate::failure::chain(&error);
                tracing::info!(%volume, error = why, "device does not answer");
                false
            }
        }
    }
}
