//! When what is mounted is dead, and how a volume's device becomes alive again.
//!
//! A mount outlives the device under it: the engine was killed, the volume was taken over by another node and came back, the quorum is lost. So
//! a mount counts only if the device that it was made of is the one that the volume is attached by now (number, and the kernel's own
//! counter of devices), and if that answers a read. Otherwise everything of it fails at once and goes, and the volume is attached anew.

use std::path::PathBuf;
use std::time::Duration;

use lockstep_csi::node_port::StageError;
use lockstep_csi::volume::VolumeId;
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::{Attach, AttachError, DetachError, DeviceNumber, Ending, Mode};
use super::record::Device;
use super::step::Step;
use super::unmounting::PROBE_WITHIN;
use crate::host::block_device;
use crate::host::device_node;

/// The least that is waited for the engine, however little its caller still waits: an answer that comes too late is used by the next call.
const ATTACH_WITHIN_MIN: Duration = Duration::from_secs(1);

/// How long the end of a dead attachment may take.
const DETACH_WITHIN: Duration = Duration::from_secs(30);

/// A volume that is attached, by a device that answers.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub device: Device,
    /// The device's name.
    pub node: PathBuf,
}

impl Held {
    /// The device's number as mountinfo writes it.
    pub fn number(&self) -> String {
        self.device.number.to_string()
    }
}

impl<A: Attach> CsiNode<A> {
    /// Attaches the volume, or finds it attached, by a device that answers. A dead one is given up and attached anew, once; `dead_mounts` are taken
    /// away with it.
    pub(super) async fn ensure_attached(
        &self,
        volume: &VolumeId,
        mode: Mode,
        dead_mounts: &[PathBuf],
        deadline: Instant,
    ) -> Result<Held, StageError> {
        let first = self.attach_once(volume, mode, deadline).await?;
        let Err(error) = block_device::probe(&first.node, PROBE_WITHIN).await else { return Ok(first) };
        let why = crate::failure::chain(&error);
        tracing::warn!(%volume, device = %first.device.number, error = why, "attached anew: the device does not answer");
        for point in dead_mounts {
            self.force_unmount(volume, point).await.map_err(|error| host("take the dead mount away", error))?;
        }
        self.end_dead_attachment(volume).await?;
        let second = self.attach_once(volume, mode, deadline).await?;
        let Err(error) = block_device::probe(&second.node, PROBE_WITHIN).await else { return Ok(second) };
        self.end_dead_attachment(volume).await?;
        Err(StageError::NotReachable { whom: format!("the device of volume {volume}"), source: error.into() })
    }

    async fn attach_once(&self, volume: &VolumeId, mode: Mode, deadline: Instant) -> Result<Held, StageError> {
        let within = deadline.saturating_duration_since(Instant::now()).max(ATTACH_WITHIN_MIN);
        let number = self.attach.attach(volume, mode, within).await.map_err(explain)?;
        self.steps.done(Step::StageAttached);
        let held = self.name_device(volume, number).map_err(|error| host("name the device", error))?;
        self.steps.done(Step::StageNamed);
        Ok(held)
    }

    fn name_device(
        &self,
        volume: &VolumeId,
        number: DeviceNumber,
    ) -> Result<Held, Box<dyn std::error::Error + Send + Sync>> {
        let node = self.device_path(volume);
        device_node::ensure_node(&node, number.major, number.minor)?;
        Ok(Held { device: Device::observe(number)?, node })
    }

    /// Ends an attachment whose device is dead.
    pub(super) async fn end_dead_attachment(&self, volume: &VolumeId) -> Result<(), StageError> {
        self.attach
            .fail_fast(volume)
            .await
            .map_err(|source| StageError::Host { doing: "let requests at the dead device fail".to_owned(), source })?;
        match self.attach.detach(volume, Ending::ByForce, DETACH_WITHIN).await {
            Ok(()) | Err(DetachError::UnknownVolume) => Ok(()),
            Err(DetachError::NotReachable { whom, source }) => Err(StageError::NotReachable { whom, source }),
            Err(error @ (DetachError::InUse { .. } | DetachError::Other { .. })) => {
                Err(host("give the dead attachment up", error))
            }
        }
    }
}

fn explain(error: AttachError) -> StageError {
    match error {
        AttachError::UnknownVolume => StageError::UnknownVolume,
        AttachError::Unsupported { reason } => StageError::Unsupported { reason },
        AttachError::HeldElsewhere { holder } => StageError::HeldElsewhere { holder },
        AttachError::Forbidden { reason } => StageError::Forbidden { reason },
        AttachError::StillWaiting { state } => StageError::StillWorking { state },
        AttachError::NotReachable { whom, source } => StageError::NotReachable { whom, source },
        AttachError::Other { source } => StageError::Host { doing: "attach the volume".to_owned(), source },
    }
}

/// The host refused.
pub(super) fn host(doing: &str, source: impl Into<lockstep_csi::node_port::Cause>) -> StageError {
    StageError::Host { doing: doing.to_owned(), source: source.into() }
}
