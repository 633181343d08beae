//! NodeUnstage: unmounted and detached, also when the device is dead.

use std::time::Duration;

use lockstep_csi::node_port::{UnstageError, UnstageVolume};
use lockstep_csi::volume::VolumeId;
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::{Attach, DetachError, Ending};
use super::publishing;
use super::record::Record;
use super::step::Step;
use super::unmounting::{UnmountError, Unmounted};
use crate::host::{device_node, loops};

/// The least that is waited for the engine, however little the caller still waits.
const DETACH_WITHIN_MIN: Duration = Duration::from_secs(5);

/// The most: an engine that answers takes 10 s to find out that there is no quorum. Longer, and the call is better repeated.
const DETACH_WITHIN_MAX: Duration = Duration::from_secs(20);

fn host(doing: &str, source: impl Into<lockstep_csi::node_port::Cause>) -> UnstageError {
    UnstageError::Host { doing: doing.to_owned(), source: source.into() }
}

impl<A: Attach> CsiNode<A> {
    pub(super) async fn unstage(&self, request: &UnstageVolume, within: Duration) -> Result<(), UnstageError> {
        let deadline = Instant::now() + within;
        let (volume, path) = (&request.id, &request.staging_path);
        let record = Record::read(path).map_err(|error| host("read the record of what is staged", error))?;
        if let Some(record) = record.as_ref().filter(|record| record.volume == *volume) {
            let published = self.observe_published(record).map_err(|error| host("list the mounts", error))?;
            if let Some(publication) = published.into_iter().next() {
                return Err(UnstageError::Published { target_path: publication.target_path });
            }
        } else if record.is_some() {
            // Another volume is staged there: this one is not.
            return Ok(());
        }
        let mut how = match self.unmount(volume, path, deadline).await {
            Ok(how) => how,
            Err(UnmountError::StillWriting) => {
                return Err(UnstageError::StillWorking { state: "what was dirty is being written".to_owned() });
            }
            Err(error) => return Err(host("unmount", error)),
        };
        if how == Unmounted::InOrder
            && record.is_some()
            && !self.wait_let_go(volume).await
            && !self.is_alive(volume).await
        {
            // The mount is out of sight and its file system still waits for the device.
            self.attach
                .fail_fast(volume)
                .await
                .map_err(|source| host("let requests at the dead device fail", source))?;
            how = Unmounted::ByForce;
        }
        self.steps.done(Step::UnstageUnmounted);
        self.release_loops(volume).map_err(|error| host("release loop devices over the volume's", error))?;
        self.detach(volume, how, record.is_some(), deadline).await?;
        self.steps.done(Step::UnstageDetached);
        device_node::remove_node(&self.device_path(volume)).map_err(|error| host("remove the device's name", error))?;
        self.steps.done(Step::UnstageUnnamed);
        Record::remove(path).map_err(|error| host("remove the record of what was staged", error))?;
        self.steps.done(Step::UnstageForgotten);
        Ok(())
    }

    async fn detach(
        &self,
        volume: &VolumeId,
        how: Unmounted,
        recorded: bool,
        deadline: Instant,
    ) -> Result<(), UnstageError> {
        let within = deadline.saturating_duration_since(Instant::now()).clamp(DETACH_WITHIN_MIN, DETACH_WITHIN_MAX);
        let mut ending = match how {
            Unmounted::InOrder => Ending::InOrder,
            Unmounted::ByForce => Ending::ByForce,
        };
        loop {
            match self.attach.detach(volume, ending, within).await {
                Ok(()) | Err(DetachError::UnknownVolume) => return Ok(()),
                // It is staged elsewhere, and was never here.
                Err(DetachError::InUse { .. }) if !recorded => return Ok(()),
                // Whoever uses a dead device can only wait for ever.
                Err(DetachError::InUse { .. }) if ending == Ending::InOrder && !self.is_alive(volume).await => {
                    self.attach.fail_fast(volume).await.map_err(|source| host("let requests fail", source))?;
                    ending = Ending::ByForce;
                }
                Err(DetachError::NotReachable { whom, source }) => {
                    return Err(UnstageError::NotReachable { whom, source });
                }
                Err(error) => return Err(host("detach the volume", error)),
            }
        }
    }

    /// Gives up the loop devices over the volume's device that publishing made and a killed process left.
    fn release_loops(&self, volume: &VolumeId) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for left in loops::observe_under(&self.device_path(volume))? {
            tracing::info!(%volume, device = left.name, "loop device is given up");
            publishing::release_loop(&left)?;
        }
        Ok(())
    }
}
