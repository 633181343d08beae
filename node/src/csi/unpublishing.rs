//! NodeUnpublish: unbound, and what was made at the target removed.

use std::io;
use std::path::Path;
use std::time::Duration;

use lockstep_csi::node_port::{UnpublishError, UnpublishVolume};
use lockstep_csi::volume::VolumeId;
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::Attach;
use super::publishing::release_loop;
use super::step::Step;
use super::unmounting::{UnmountError, top_mount};
use crate::host::block_device;
use crate::host::loops::{self, Loop};
use crate::host::tool::RunToolError;

/// The end of a bind mount writes nothing, unless the staged mount is gone before it.
const UNBIND_WITHIN: Duration = Duration::from_secs(60);

/// Why something is left at a target.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoveTargetError {
    #[error("it is still mounted")]
    Unmount(#[from] UnmountError),
    #[error("the loop device for reading only stays")]
    ReleaseLoop(#[from] RunToolError),
    #[error("the target cannot be looked at")]
    Look(#[source] io::Error),
    #[error("the target cannot be removed")]
    Remove(#[source] io::Error),
    #[error("the target is not empty, and not ours to remove")]
    NotEmpty,
    #[error("it stays written down for whom it was published")]
    Forget(#[source] io::Error),
}

impl<A: Attach> CsiNode<A> {
    pub(super) async fn unpublish(&self, request: &UnpublishVolume) -> Result<(), UnpublishError> {
        self.remove_target(&request.id, &request.target_path).await.map_err(|error| match error {
            RemoveTargetError::Unmount(UnmountError::StillWriting) => {
                UnpublishError::StillWorking { state: "what was dirty is being written".to_owned() }
            }
            error => UnpublishError::Host { doing: "unpublish the volume".to_owned(), source: error.into() },
        })
    }

    pub(super) async fn remove_target(&self, volume: &VolumeId, target: &Path) -> Result<(), RemoveTargetError> {
        let over = self.observe_read_only_loop(volume, target).map_err(RemoveTargetError::Look)?;
        self.unmount(volume, target, Instant::now() + UNBIND_WITHIN).await?;
        self.steps.done(Step::UnpublishUnbound);
        if let Some(left) = over {
            release_loop(&left)?;
        }
        self.steps.done(Step::UnpublishLoopReleased);
        remove(target)?;
        if let Some(users) = &self.users {
            users.forget(volume, target).map_err(RemoveTargetError::Forget)?;
        }
        self.steps.done(Step::UnpublishTargetRemoved);
        Ok(())
    }

    /// The loop device that publishing made for this target, if it did. One that a killed process left behind goes with the staged volume.
    fn observe_read_only_loop(&self, volume: &VolumeId, target: &Path) -> io::Result<Option<Loop>> {
        if top_mount(target)?.is_none() {
            return Ok(None);
        }
        let Some((major, minor)) = block_device::observe_number(target)? else { return Ok(None) };
        let number = format!("{major}:{minor}");
        let over = loops::observe_under(&self.device_path(volume))?;
        Ok(over.into_iter().find(|device| device.device == number))
    }
}

/// Removes an empty directory or an empty file: what publishing made. Nothing else is removed.
fn remove(target: &Path) -> Result<(), RemoveTargetError> {
    let there = match std::fs::symlink_metadata(target) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(RemoveTargetError::Look(error)),
    };
    let removed = if there.is_dir() {
        std::fs::remove_dir(target)
    } else if there.is_file() && there.len() == 0 {
        std::fs::remove_file(target)
    } else {
        return Err(RemoveTargetError::NotEmpty);
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Err(RemoveTargetError::NotEmpty),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RemoveTargetError::Remove(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
