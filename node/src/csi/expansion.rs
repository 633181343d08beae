//! NodeExpand: a file system that fills its device again after the volume grew.

use std::time::Duration;

use lockstep_csi::capability::Filesystem;
use lockstep_csi::node_port::{ExpandError, ExpandOnNode};
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::{Attach, DeviceNumber};
use super::usage::{SeeError, Seen};
use crate::host::{block_device, filesystem};

/// How long this node's engine may take to hear that the volume has grown elsewhere.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether the device has followed its volume.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn host(doing: &str, source: impl Into<lockstep_csi::node_port::Cause>) -> ExpandError {
    ExpandError::Host { doing: doing.to_owned(), source: source.into() }
}

impl<A: Attach> CsiNode<A> {
    pub(super) async fn expand(&self, request: &ExpandOnNode, within: Duration) -> Result<u64, ExpandError> {
        let deadline = Instant::now() + within;
        let (volume, path) = (&request.at.id, &request.at.volume_path);
        let (seen, device) = self.see(volume, path).map_err(|error| match error {
            SeeError::UnknownVolume => ExpandError::UnknownVolume,
            SeeError::NotThere => ExpandError::NotThere { path: path.clone() },
            SeeError::Host(error) => host("look at the path", error),
        })?;
        let size_bytes = self.wait_grown(request, device, deadline).await?;
        let kind = match seen {
            Seen::Block => return Ok(size_bytes),
            Seen::Filesystem { kind } => kind,
        };
        let known = Filesystem::ALL.into_iter().find(|filesystem| filesystem.as_str() == kind);
        let Some(kind) = known else { return Err(host("grow the file system", format!("it is of type {kind}"))) };
        // xfs_growfs wants a mount that can be written: the staged one, where a pod only reads.
        let point = request.at.staging_path.as_ref().unwrap_or(path);
        let grown = filesystem::grow(kind, &self.device_path(volume), point).await;
        grown.map_err(|error| host("grow the file system", error))?;
        tracing::info!(%volume, size_bytes, filesystem = %kind, "file system fills its device");
        Ok(size_bytes)
    }

    /// The device's size, once it is what is asked for. The device follows its volume a moment after that has grown.
    async fn wait_grown(
        &self,
        request: &ExpandOnNode,
        device: DeviceNumber,
        deadline: Instant,
    ) -> Result<u64, ExpandError> {
        let observe = || block_device::observe_size(device.major, device.minor);
        let mut size_bytes = observe().map_err(|error| host("look at the device", error))?;
        let Some(range) = request.range else { return Ok(size_bytes) };
        let heard_by = Instant::now() + HEARD_WITHIN;
        while size_bytes < range.required() {
            let volume =
                self.attach.observe(&request.at.id).await.map_err(|error| host("look at the volume", error))?;
            if volume.size_bytes < range.required() && Instant::now() >= heard_by.min(deadline) {
                return Err(ExpandError::OutOfRange { size_bytes: volume.size_bytes });
            }
            if Instant::now() >= deadline {
                let state = format!("its device still has {size_bytes} bytes");
                return Err(ExpandError::StillWorking { state });
            }
            tokio::time::sleep(LOOK_EVERY).await;
            size_bytes = observe().map_err(|error| host("look at the device", error))?;
        }
        match range.accepts(size_bytes) {
            true => Ok(size_bytes),
            false => Err(ExpandError::OutOfRange { size_bytes }),
        }
    }
}
