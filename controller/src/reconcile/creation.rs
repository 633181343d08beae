//! A volume is made: where it will be is written down first, then its register is made, then its parts.
//!
//! So whoever finds it half made, at whatever step, knows all that may exist of it.

use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use lockstep_api::{
    Arbiter, Definition, Member, MirrorReplica, MirrorVolume, MirrorVolumeStatus, Placement, VolumeState, condition,
    names, set_condition,
};
use lockstep_leases::CreateRegister;
use serde_json::{Value, json};

use super::apply::{apply, apply_status, send};
use super::volumes::now;
use super::{Leader, RETRY_AFTER, ReconcileError};
use crate::cluster::lock;
use crate::plan::definition::{plan_definition, plan_register};
use crate::plan::pairing::{Members, Want, plan_members};
use crate::plan::pools::bytes;
use crate::plan::status::{CREATING, NO_ROOM, READY, is_created};

/// What a volume wants of the pools.
#[must_use]
pub fn want(volume: &MirrorVolume) -> Want {
    let spec = &volume.spec;
    Want {
        size: bytes(spec.size_bytes),
        replicas: usize::from(spec.replicas.max(1)),
        arbiter: spec.arbiter,
        policing: spec.policing,
        selector: spec.pool_selector.clone(),
        preferred: spec.preferred_nodes.clone(),
        allowed: spec.allowed_nodes.clone(),
    }
}

/// So many random bytes, in hex.
fn random_hex<const N: usize>() -> Result<String, ReconcileError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| ReconcileError::Incomplete { source: Box::new(error) })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Leader {
    /// Chooses the members of a volume and writes them down, before any of them is made. Where there is no room, says so.
    pub(super) async fn place(&self, volume: &MirrorVolume) -> Result<Action, ReconcileError> {
        let planned = self.plan_and_reserve(volume)?;
        let mut status = volume.status.clone().unwrap_or_default();
        let generation = volume.metadata.generation;
        let (reason, message) = match &planned {
            Ok(placed) => {
                status = placed.clone();
                let nodes: Vec<&str> = placed.placement.iter().map(|it| &*it.node).collect();
                (CREATING, format!("waits for {}", nodes.join(", ")))
            }
            Err(reason) => (NO_ROOM, reason.clone()),
        };
        status.observed_generation = generation;
        status.state = VolumeState::Creating;
        set_condition(&mut status.conditions, condition(READY, false, reason, &message, generation, now()));
        if volume.status.as_ref() == Some(&status) {
            // Still no room.
            return Ok(Action::requeue(RETRY_AFTER));
        }
        let written = apply_status(&self.cluster.client, volume, &status).await;
        match written {
            Ok(_) if planned.is_ok() => {
                let nodes: Vec<&str> = status.placement.iter().map(|it| &*it.node).collect();
                tracing::info!(volume = volume.name_any(), nodes = nodes.join(","), "volume_placed");
                Ok(Action::await_change())
            }
            Ok(_) => Ok(Action::requeue(RETRY_AFTER)),
            Err(source) => {
                // Where it may have been written, the room stays reserved until the store shows what is.
                if !source.is_uncertain() {
                    lock(&self.placed).remove(&volume.name_any());
                }
                Err(ReconcileError::Write { what: "write the volume's placement", source })
            }
        }
    }

    /// The status with the placement, which the next plan already counts; or why there is no room.
    fn plan_and_reserve(&self, volume: &MirrorVolume) -> Result<Result<MirrorVolumeStatus, String>, ReconcileError> {
        let mut placed = lock(&self.placed);
        placed.remove(&volume.name_any());
        let pools = self.cluster.plan_pools(&placed);
        let Members { placement, arbiter } = match plan_members(&want(volume), &pools, self.config.overcommit) {
            Ok(members) => members,
            Err(no_room) => return Ok(Err(no_room.reason)),
        };
        let mut status = volume.status.clone().unwrap_or_default();
        status.id = Some(random_hex::<16>()?);
        status.generation = Some(random_hex::<8>()?);
        status.arbiter = Some(arbiter);
        status.placement = placement;
        status.size_bytes = volume.spec.size_bytes;
        let reserved = MirrorVolume { status: Some(status.clone()), ..volume.clone() };
        placed.insert(volume.name_any(), reserved);
        Ok(Ok(status))
    }

    /// What the store shows needs no memory any more.
    pub(super) fn forget_placed(&self, volume: &MirrorVolume) {
        let shown = volume.status.as_ref().is_some_and(|status| !status.placement.is_empty());
        let mut placed = lock(&self.placed);
        if shown || volume.metadata.deletion_timestamp.is_some() {
            placed.remove(&volume.name_any());
        }
        placed.retain(|name, _| self.cluster.volume(name).is_some());
    }

    /// Makes the register of a volume whose arbiter is a Lease, before its first part: later, one that is not there is lost, and never
    /// made silently.
    pub(super) async fn ensure_register(&self, volume: &MirrorVolume) -> Result<(), ReconcileError> {
        let arbiter = volume.status.as_ref().and_then(|status| status.arbiter);
        if arbiter != Some(Arbiter::Lease) || !self.own_parts(volume).is_empty() {
            return Ok(());
        }
        let definition = define(volume)?;
        let config = plan_register(&definition).ok_or_else(|| ReconcileError::Incomplete {
            source: format!("volume {}: its id or generation is no number", volume.name_any()).into(),
        })?;
        match self.leases.create_register(&config).await {
            Ok(()) => Ok(()),
            // Engines have begun with it: the parts are there, and the store is late.
            Err(CreateRegister::Exists(_)) if self.has_parts(volume).await? => Ok(()),
            Err(error) => Err(ReconcileError::Leases { source: Box::new(error) }),
        }
    }

    async fn has_parts(&self, volume: &MirrorVolume) -> Result<bool, ReconcileError> {
        let of = ListParams::default().labels(&format!("{}={}", names::LABEL_VOLUME, volume.name_any()));
        let parts = send(Api::<MirrorReplica>::all(self.cluster.client.clone()).list(&of)).await;
        let parts = parts.map_err(|source| ReconcileError::Write { what: "list the volume's parts", source })?;
        let id = volume.status.as_ref().and_then(|status| status.id.as_deref());
        Ok(parts.items.iter().any(|part| Some(&*part.spec.definition.id) == id))
    }

    /// Makes the parts that are missing, and gives those that are there the size and settings that are wanted.
    pub(super) async fn ensure_parts(&self, volume: &MirrorVolume) -> Result<(), ReconcileError> {
        let parts = self.own_parts(volume);
        let definition = match parts.first() {
            // As it was made, whatever became of the placement since.
            Some(part) => part.spec.definition.clone(),
            None => define(volume)?,
        };
        for placed in volume.status.iter().flat_map(|status| &status.placement) {
            let name = names::replica_name(&volume.name_any(), &placed.node);
            let part = parts.iter().find(|part| part.spec.node_name == placed.node);
            let earlier = part.is_none() && self.cluster.replicas.get(&ObjectRef::new(&name)).is_some();
            if earlier || (part.is_none() && self.cluster.node(&placed.node).is_none()) {
                // Its node has yet to take an earlier part away; or there is no node that could do anything.
                continue;
            }
            // What a node is to the volume may have changed: then it becomes that in the volume as it is.
            let joins =
                part.map_or_else(|| is_created(volume), |part| part.spec.joins || part.spec.role != placed.role);
            let fields = part_fields(volume, placed, &definition, joins);
            if part.is_some_and(|part| is_as_wanted(part, &fields)) {
                continue;
            }
            if part.is_some_and(|part| part.metadata.deletion_timestamp.is_some()) {
                // A person deleted it: its node takes it away, then it is made anew and joins.
                continue;
            }
            apply::<MirrorReplica>(&self.cluster.client, &name, &fields)
                .await
                .map_err(|source| ReconcileError::Write { what: "write a part of the volume", source })?;
        }
        Ok(())
    }
}

fn define(volume: &MirrorVolume) -> Result<Definition, ReconcileError> {
    plan_definition(volume).map_err(|error| ReconcileError::Incomplete { source: Box::new(error) })
}

/// What is applied of a part.
fn part_fields(volume: &MirrorVolume, placed: &Placement, definition: &Definition, joins: bool) -> Value {
    let name = volume.name_any();
    json!({
        "metadata": { "labels": { names::LABEL_VOLUME: name }, "finalizers": [names::FINALIZER_REPLICA] },
        "spec": {
            "volume": name,
            "nodeName": placed.node,
            "role": placed.role,
            "definition": definition,
            "joins": joins,
            "sizeBytes": volume.spec.size_bytes.max(definition.size_bytes),
            "resyncRate": volume.spec.resync_rate,
            "ack": volume.spec.ack,
            "writePriority": volume.spec.write_priority,
            "members": members(volume),
        },
    })
}

/// Whom the volume shall be made of.
fn members(volume: &MirrorVolume) -> Vec<Member> {
    let placement = volume.status.iter().flat_map(|status| &status.placement);
    placement.map(|placed| Member { node_id: placed.node_id, role: placed.role }).collect()
}

/// Whether a part has all these fields already.
fn is_as_wanted(part: &MirrorReplica, fields: &Value) -> bool {
    let spec = serde_json::to_value(&part.spec).unwrap_or_default();
    let labelled = part.labels().get(names::LABEL_VOLUME) == Some(&part.spec.volume);
    spec == fields["spec"] && labelled && !part.finalizers().is_empty()
}
