//! What is wrong with a volume, or with the storage, as this node sees it.

use lockstep_csi::health::{Severity, StorageHealth, StorageSeverity, VolumeHealth};
use lockstep_csi::node_port::{HealthError, HealthQuery};

use super::CsiNode;
use super::attach_port::{Attach, ObserveError};
use super::record::Record;
use crate::failure::chain;

impl<A: Attach> CsiNode<A> {
    pub(super) async fn observe_volume_health(&self, query: &HealthQuery) -> Result<Vec<VolumeHealth>, HealthError> {
        let here = match self.attach.observe(&query.id).await {
            Ok(here) => here,
            Err(ObserveError::UnknownVolume) => return Err(HealthError::UnknownVolume),
            Err(error @ ObserveError::NotReachable { .. }) => {
                let message = chain(&error);
                return Ok(vec![VolumeHealth {
                    severity: Severity::Inaccessible,
                    reason: "EngineNotReachable",
                    message,
                }]);
            }
        };
        let mut health = here.health;
        if let Some(path) = &query.staging_path {
            let record = Record::read(path)
                .map_err(|error| HealthError::Host { doing: "read the record".to_owned(), source: error.into() })?;
            let staged = record.filter(|record| record.volume == query.id && record.device.is_some());
            if staged.is_some() && here.attached.is_none() {
                let message = format!("what is staged at {path} is dead: another node has taken the volume over since");
                health.push(VolumeHealth { severity: Severity::Inaccessible, reason: "Fenced", message });
            }
        }
        Ok(health)
    }

    pub(super) async fn observe_storage_health(&self) -> Result<Vec<StorageHealth>, HealthError> {
        match self.attach.storage_health().await {
            Ok(health) => Ok(health),
            Err(error) => Ok(vec![StorageHealth {
                severity: StorageSeverity::Unreachable,
                reason: "EngineNotReachable",
                message: chain(&error),
                capability: None,
            }]),
        }
    }
}
