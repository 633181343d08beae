//! The file system of a staged volume: made where there is none, checked, mounted, grown.

use std::path::Path;
use std::time::Duration;

use lockstep_csi::capability::{Filesystem, Mount};
use lockstep_csi::node_port::{StageError, StageVolume};
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::Attach;
use super::stale::{Held, host};
use super::step::Step;
use super::unmounting::top_mount;
use crate::host::block_device;
use crate::host::block_probe::{self, Content};
use crate::host::filesystem::{self, GrowError, PrepareError};

/// Reading both ends of a device, and what `blkid` reads of it.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked whether a mount that was under way is there.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What an earlier call left of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It is mounted at the staging path.
    Mounted,
    /// Nobody has it for itself.
    Free,
}

impl<A: Attach> CsiNode<A> {
    /// Mounts the volume's file system at the staging path, if that is not done yet.
    pub(super) async fn ensure_mounted(
        &self,
        request: &StageVolume,
        mount: &Mount,
        held: &Held,
        deadline: Instant,
    ) -> Result<(), StageError> {
        let path = &request.staging_path;
        let size = block_device::observe_size(held.device.number.major, held.device.number.minor)
            .map_err(|error| host("look at the device", error))?;
        let readonly = request.capability.mode().is_read_only();
        if self.wait_mounted_or_free(path, held, deadline).await? == Found::Mounted {
            self.steps.done(Step::StageMounted);
            if !readonly {
                self.grow_mounted(request, mount, held).await?;
            }
            self.steps.done(Step::StageGrown);
            return Ok(());
        }
        let smaller = self.prepare(mount, held, size, readonly).await?;
        self.mount(request, mount, held).await?;
        self.steps.done(Step::StageMounted);
        if smaller && !readonly {
            self.grow_staged(request, mount, held, deadline).await?;
        }
        self.steps.done(Step::StageGrown);
        Ok(())
    }

    /// Waits for what an earlier call of ours began (mkfs, fsck, mount): it may run on although that process was killed.
    async fn wait_mounted_or_free(&self, path: &Path, held: &Held, deadline: Instant) -> Result<Found, StageError> {
        loop {
            let top = top_mount(path).map_err(|error| host("list the mounts", error))?;
            if top.is_some_and(|top| top.device == held.number()) {
                return Ok(Found::Mounted);
            }
            // A mount has the device for itself before it is seen, so that none can come unseen once the device is free.
            let look_again = (Instant::now() + LOOK_AGAIN_AFTER).min(deadline);
            let free = block_device::wait_unclaimed(&held.node, look_again).await;
            if free.map_err(|error| host("open the device", error))? {
                return Ok(Found::Free);
            }
            if Instant::now() >= deadline {
                let state = "a program of an earlier call still works on the device".to_owned();
                return Err(StageError::StillWorking { state });
            }
        }
    }

    /// Grows a file system that was found mounted: the call that mounted it may have been killed before it came to this.
    async fn grow_mounted(&self, request: &StageVolume, mount: &Mount, held: &Held) -> Result<(), StageError> {
        match filesystem::grow(mount.filesystem, &held.node, &request.staging_path).await {
            Ok(()) => Ok(()),
            Err(error @ GrowError::Denied) => {
                tracing::warn!(volume = %request.id, %error, "file system does not grow");
                Ok(())
            }
            Err(error) => Err(host("grow the file system to its device", error)),
        }
    }

    async fn mount(&self, request: &StageVolume, mount: &Mount, held: &Held) -> Result<(), StageError> {
        let (path, flags) = (&request.staging_path, mount.flags.as_slice());
        let readonly = request.capability.mode().is_read_only();
        let done = filesystem::mount(mount.filesystem, &held.node, path, flags, readonly).await;
        done.map_err(|error| explain_prepare(error, &request.id, &held.node))?;
        tracing::info!(volume = %request.id, %path, filesystem = %mount.filesystem, "mounted");
        Ok(())
    }

    /// Grows a file system that has just been mounted and that nobody uses yet.
    async fn grow_staged(
        &self,
        request: &StageVolume,
        mount: &Mount,
        held: &Held,
        deadline: Instant,
    ) -> Result<(), StageError> {
        let path = &request.staging_path;
        let Err(error) = filesystem::grow(mount.filesystem, &held.node, path).await else { return Ok(()) };
        self.unmount(&request.id, path, deadline).await.map_err(|error| host("unmount again", error))?;
        match error {
            GrowError::Denied => {
                let grown = filesystem::grow_unmounted_ext4(&held.node).await;
                grown.map_err(|error| explain_prepare(error, &request.id, &held.node))?;
                self.mount(request, mount, held).await
            }
            GrowError::Tool(error) => Err(host("grow the file system to its device", error)),
        }
    }

    /// Makes the file system, or makes the one that is there ready. Says whether it is smaller than its device.
    async fn prepare(&self, mount: &Mount, held: &Held, size: u64, readonly: bool) -> Result<bool, StageError> {
        let wanted = mount.filesystem;
        let content = block_probe::observe_content(&held.node, size, LOOK_WITHIN).await;
        let content = content.map_err(|error| host("look what is on the device", error))?;
        let smaller = match content {
            Content::Blank | Content::Unfinished if readonly => {
                let reason =
                    "nothing is on it, and it is to be read only: it has to be used for writing first".to_owned();
                return Err(StageError::Forbidden { reason });
            }
            Content::Blank | Content::Unfinished => {
                let again = content == Content::Unfinished;
                let made = filesystem::make(wanted, &held.node, again).await;
                made.map_err(|error| host("make the file system", error))?;
                tracing::info!(device = %held.node.display(), filesystem = %wanted, "file system made");
                false
            }
            Content::Filesystem { kind, size_bytes } if kind == wanted.as_str() => {
                size_bytes.is_none_or(|recorded| recorded < size)
            }
            Content::Filesystem { kind, .. } => {
                let reason =
                    format!("it has a file system of type {kind}, not {wanted}: ask for that, or use another volume");
                return Err(StageError::Forbidden { reason });
            }
            Content::Foreign { text } => {
                let reason = format!(
                    "it has {text}, over which no {wanted} is made: use it as a block device, or wipe it there"
                );
                return Err(StageError::Forbidden { reason });
            }
        };
        self.steps.done(Step::StageMade);
        let checked = filesystem::check(wanted, &held.node).await;
        checked.map_err(|error| explain_prepare(error, &self.place.node, &held.node))?;
        self.steps.done(Step::StageChecked);
        Ok(smaller)
    }
}

fn explain_prepare(error: PrepareError, volume: impl std::fmt::Display, device: &Path) -> StageError {
    match error {
        PrepareError::Damaged { filesystem, message } => {
            let device = device.display();
            let repair = match filesystem {
                Filesystem::Ext4 => "e2fsck -f",
                Filesystem::Xfs => "xfs_repair",
            };
            tracing::error!(%volume, %device, message, "file system is damaged");
            let how = format!(
                "use it as a block device (volumeMode: Block) in a pod and run `{repair}` on that, or restore it"
            );
            StageError::Forbidden { reason: format!("its {filesystem} is damaged ({message}); {how}") }
        }
        PrepareError::Tool(error) => host("prepare the file system", error),
    }
}
