//! ControllerExpandVolume: the wish is written down, and answers when all replicas have the size.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use lockstep_api::{MirrorVolume, ReplicaRole};
use lockstep_csi::capacity::{CapacityRange, Growth};
use lockstep_csi::controller_port::ExpandError;
use lockstep_csi::volume::VolumeId;
use serde_json::json;

use super::Port;
use super::answers::size;
use crate::plan::pools::bytes;
use crate::plan::status::is_created;
use crate::reconcile::apply::{ApplyError, merge_over};

impl Port {
    pub(super) async fn expand(
        &self,
        id: &VolumeId,
        range: CapacityRange,
        within: Duration,
    ) -> Result<u64, ExpandError> {
        let deadline = Instant::now() + within;
        let target = loop {
            let found = self.read(id).await.map_err(|error| ExpandError::Uncertain { source: Box::new(error) })?;
            let volume = found.ok_or(ExpandError::UnknownVolume)?;
            if volume.metadata.deletion_timestamp.is_some() || !is_created(&volume) {
                let reason = if is_created(&volume) { "it is being deleted" } else { "it is being made" };
                return Err(ExpandError::Forbidden { reason: reason.to_owned() });
            }
            let growth =
                range.growth(size(&volume)).map_err(|error| ExpandError::OutOfRange { reason: error.to_string() })?;
            let Growth::To(target) = growth else { return Ok(size(&volume)) };
            if bytes(volume.spec.size_bytes) >= target {
                // Written down by an earlier call.
                break bytes(volume.spec.size_bytes);
            }
            self.check_room(&volume, target)?;
            match merge_over(&self.cluster.client, &volume, &json!({ "spec": { "sizeBytes": target } })).await {
                Ok(_) => break target,
                Err(ApplyError::Conflict) if Instant::now() < deadline => {}
                Err(ApplyError::Missing) => return Err(ExpandError::UnknownVolume),
                Err(error @ ApplyError::Refused { .. }) => return Err(ExpandError::Failed { source: Box::new(error) }),
                Err(error) => return Err(ExpandError::Uncertain { source: Box::new(error) }),
            }
        };
        let look = || self.cluster.volume(id.as_str()).map(|volume| size(&volume)).filter(|size| *size >= target);
        let grown = self.cluster.until(deadline.saturating_duration_since(Instant::now()), look).await;
        grown.ok_or_else(|| ExpandError::StillWorking { state: format!("its replicas do not have {target} bytes yet") })
    }

    /// What it grows by has to be promised by all its pools.
    fn check_room(&self, volume: &MirrorVolume, target: u64) -> Result<(), ExpandError> {
        let more = target.saturating_sub(bytes(volume.spec.size_bytes).max(size(volume)));
        let pools = self.cluster.plan_pools(&BTreeMap::new());
        for placed in volume.status.iter().flat_map(|status| &status.placement) {
            let Some(pool) = pools.iter().find(|pool| pool.node == placed.node) else { continue };
            // A cordoned pool takes nothing new; what is there may grow.
            let open = crate::plan::Pool { cordoned: false, evict: false, engine: true, ..pool.clone() };
            let available = open.available(self.config.overcommit);
            if placed.role == ReplicaRole::Replica && available < more {
                let node = &placed.node;
                let reason = format!("{}: {node} has {available} bytes for {more} more", volume.name_any());
                return Err(ExpandError::NoRoom { reason });
            }
        }
        Ok(())
    }
}
