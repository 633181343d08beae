//! ControllerModifyVolume: the attributes are written down, all or none; the leader and the nodes carry them out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lockstep_api::{MirrorVolume, MirrorVolumeSpec, is_true};
use lockstep_csi::controller_port::{ModifyError, Parameters};
use lockstep_csi::volume::VolumeId;
use serde_json::json;

use super::Port;
use super::parameters::Attributes;
use crate::plan::replacement::{Seen, plan_change};
use crate::plan::status::{REDUNDANT, is_created};
use crate::reconcile::apply::{ApplyError, merge_over};

impl Port {
    pub(super) async fn modify(
        &self,
        id: &VolumeId,
        mutable_parameters: &Parameters,
        within: Duration,
    ) -> Result<(), ModifyError> {
        let deadline = Instant::now() + within;
        loop {
            let found = self.read(id).await.map_err(|error| ModifyError::Uncertain { source: Box::new(error) })?;
            // Unknown first: a name that is wrong is no reason to look at attributes.
            let volume = found.ok_or(ModifyError::UnknownVolume)?;
            let attributes = Attributes::parse(mutable_parameters)
                .map_err(|error| ModifyError::WrongInput { reason: error.to_string() })?;
            let mut spec = volume.spec.clone();
            attributes.put(&mut spec);
            if spec == volume.spec {
                return Ok(());
            }
            check_state(&volume, &spec)?;
            self.check_built(&volume, &spec)?;
            let changed = json!({ "spec": {
                "replicas": spec.replicas,
                "ack": spec.ack,
                "resyncRate": spec.resync_rate,
                "writePriority": spec.write_priority,
            } });
            match merge_over(&self.cluster.client, &volume, &changed).await {
                Ok(_) => return Ok(()),
                Err(ApplyError::Conflict) if Instant::now() < deadline => {}
                Err(ApplyError::Missing) => return Err(ModifyError::UnknownVolume),
                Err(error @ ApplyError::Refused { .. }) => return Err(ModifyError::Failed { source: Box::new(error) }),
                Err(error) => return Err(ModifyError::Uncertain { source: Box::new(error) }),
            }
        }
    }
}

fn forbidden(reason: &str) -> Result<(), ModifyError> {
    Err(ModifyError::Forbidden { reason: reason.to_owned() })
}

impl Port {
    /// What would be written down and never happen is refused.
    fn check_built(&self, volume: &MirrorVolume, wanted: &MirrorVolumeSpec) -> Result<(), ModifyError> {
        if wanted.replicas == volume.spec.replicas {
            return Ok(());
        }
        if !self.config.change_members {
            return forbidden("replicas of a volume that exists cannot be changed: changeMembers is off");
        }
        if wanted.replicas > volume.spec.replicas {
            let pools = self.cluster.plan_pools(&BTreeMap::new());
            let mut more = volume.clone();
            more.spec = wanted.clone();
            let lost_for_long = &self.cluster.lost_nodes();
            let overcommit = self.config.overcommit;
            let none = &BTreeSet::new();
            let seen = Seen { volume: &more, pools: &pools, lost_for_long, emptied: none, failed: none, overcommit };
            if plan_change(seen).is_none() {
                let reason = "no pool without a part of it has room for one more replica".to_owned();
                return Err(ModifyError::NoRoom { reason });
            }
        }
        Ok(())
    }
}

/// Replicas are not given up while redundancy is missing, nor before they are there.
fn check_state(volume: &MirrorVolume, wanted: &MirrorVolumeSpec) -> Result<(), ModifyError> {
    let redundant = volume.status.as_ref().is_some_and(|status| is_true(&status.conditions, REDUNDANT));
    match wanted.replicas {
        _ if volume.metadata.deletion_timestamp.is_some() => forbidden("it is being deleted"),
        _ if !is_created(volume) => forbidden("it is being made"),
        fewer if fewer < volume.spec.replicas && !redundant => {
            forbidden("replicas cannot be given up while not all of them are in sync")
        }
        _ => Ok(()),
    }
}
