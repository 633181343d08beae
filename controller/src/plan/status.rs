//! What all members together show of a volume: many nodes' statuses made into one.
//!
//! The newest configuration that any of them knows is the volume's. A node that was away says old things until it is back, and
//! does not count beside one with a higher epoch.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use lockstep_api::{
    MirrorReplica, MirrorReplicaStatus, MirrorVolume, MirrorVolumeStatus, Phase, REGISTER_LOST, ReplicaRole, Seen,
    VolumeState, condition, is_true, set_condition,
};

/// Condition: created on all its members. It stays.
pub const READY: &str = "Ready";
/// Condition: all replicas are in sync.
pub const REDUNDANT: &str = "Redundant";
/// Condition: reads and writes can be done.
pub const SERVING: &str = "Serving";
/// Condition: a replica has a generation of its own.
pub const DIVERGED: &str = "Diverged";
/// Condition: why it is not deleted yet.
pub const DELETION_BLOCKED: &str = "DeletionBlocked";

/// Reason of [`READY`] while members are being made.
pub const CREATING: &str = "Creating";
/// Reason of [`READY`] while the pools have no room.
pub const NO_ROOM: &str = "NoRoom";
/// Reason of [`READY`] when a node cannot make its part.
pub const PART_FAILED: &str = "PartFailed";
/// Reason of [`READY`] that holds.
pub const CREATED: &str = "Created";

/// Reason of [`DELETION_BLOCKED`]: it is attached somewhere.
pub const IN_USE: &str = "InUse";
/// Reason of [`DELETION_BLOCKED`]: every node that is there has deleted its part.
pub const NODES_AWAY: &str = "NodesAway";
/// Reason of [`DELETION_BLOCKED`]: nodes are deleting their parts.
pub const DELETING: &str = "Deleting";

/// A volume whose members have all been made. From then on it may hold data, and nothing of it is ever made anew as if it were empty.
#[must_use]
pub fn is_created(volume: &MirrorVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY))
}

/// What was seen of a volume.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The volume itself.
    pub volume: &'a MirrorVolume,
    /// All its parts.
    pub parts: &'a [&'a MirrorReplica],
    /// Nodes that are known to be lost.
    pub dead: &'a BTreeSet<String>,
    /// Why its register is lost, if it is.
    pub register: Option<&'a str>,
}

/// The newest configuration that is known: of several generations the one that was made last, then the highest epoch.
///
/// A generation other than the first comes of an operator's decision, which wins over what was before it.
#[must_use]
pub fn newest<'a>(first_generation: Option<&str>, parts: &[&'a MirrorReplica]) -> Option<&'a Seen> {
    parts
        .iter()
        .filter_map(|part| Some(&part.status.as_ref()?.seen))
        .filter(|seen| seen.epoch > 0 && !seen.generation.is_empty())
        .max_by_key(|seen| (first_generation != Some(&*seen.generation), seen.epoch, seen.generation.clone()))
}

/// The volume's status, all of it.
#[must_use]
pub fn plan_status(observed: Observed<'_>, now: &Time) -> MirrorVolumeStatus {
    let volume = observed.volume;
    let mut status = volume.status.clone().unwrap_or_default();
    status.observed_generation = volume.metadata.generation;
    let created = is_created(volume) || plan_created(&observed, &mut status, now);
    let newest = newest(status.generation.as_deref(), observed.parts);
    if let Some(seen) = newest.filter(|_| created) {
        status.size_bytes = seen.size_bytes;
        status.writers.clone_from(&seen.writers);
        status.in_sync.clone_from(&seen.in_sync);
        status.epoch = seen.epoch;
    }
    status.size = Some(bytesize::ByteSize::b(super::pools::bytes(status.size_bytes)).display().iec().to_string());
    status.dirty_bytes = said(observed.parts).map(|said| said.dirty_bytes).max().unwrap_or(0);
    status.resync = progress(observed.parts);
    let wanted = usize::from(volume.spec.replicas);
    let living = status.in_sync.iter().filter(|node| !observed.dead.contains(*node)).count();
    status.ready = Some(format!("{living}/{wanted}"));
    if created {
        let generation = volume.metadata.generation;
        let redundant = living >= wanted;
        let (reason, message) = describe_redundancy(redundant, &status, newest, observed.dead);
        set_condition(
            &mut status.conditions,
            condition(REDUNDANT, redundant, reason, &message, generation, now.clone()),
        );
        let suspended = suspended(&observed, living, newest.is_some());
        let serving = match &suspended {
            None => condition(SERVING, true, "Serving", "", generation, now.clone()),
            Some((reason, message)) => condition(SERVING, false, reason, message, generation, now.clone()),
        };
        set_condition(&mut status.conditions, serving);
        status.state = match (suspended.is_some(), redundant) {
            (true, _) => VolumeState::Suspended,
            (false, true) => VolumeState::UpToDate,
            (false, false) => VolumeState::Degraded,
        };
        note_troubles(&observed, &mut status.conditions, generation, now);
    }
    if volume.metadata.deletion_timestamp.is_some() {
        status.state = VolumeState::Deleting;
    }
    status
}

fn said<'a>(parts: &[&'a MirrorReplica]) -> impl Iterator<Item = &'a MirrorReplicaStatus> {
    parts.iter().filter_map(|part| part.status.as_ref())
}

/// Whether every member that was placed has its part. Says in the condition what is missing.
fn plan_created(observed: &Observed<'_>, status: &mut MirrorVolumeStatus, now: &Time) -> bool {
    if status.placement.is_empty() {
        return false;
    }
    let parts: BTreeMap<&str, &MirrorReplica> =
        observed.parts.iter().map(|part| (&*part.spec.node_name, *part)).collect();
    let said_of = |node: &str| parts.get(node).and_then(|part| part.status.as_ref());
    let phase = |node: &str| said_of(node).map_or(Phase::Pending, |said| said.phase);
    let nodes: Vec<&str> = status.placement.iter().map(|placed| &*placed.node).collect();
    let failed: Vec<String> = nodes
        .iter()
        .filter(|node| phase(node) == Phase::Failed)
        .map(|node| format!("{node}: {}", said_of(node).map_or("", |said| &said.message)))
        .collect();
    let waiting: Vec<&str> = nodes.iter().copied().filter(|node| phase(node) != Phase::Ready).collect();
    let (holds, reason, message) = match (failed.is_empty(), waiting.is_empty()) {
        (false, _) => (false, PART_FAILED, failed.join("; ")),
        (true, false) => (false, CREATING, format!("waits for {}", waiting.join(", "))),
        (true, true) => (true, CREATED, String::new()),
    };
    let generation = observed.volume.metadata.generation;
    set_condition(&mut status.conditions, condition(READY, holds, reason, &message, generation, now.clone()));
    if holds && status.in_sync.is_empty() {
        // Nothing was written yet, and nothing was said yet: all are equal.
        status.in_sync =
            status.placement.iter().filter(|it| it.role == ReplicaRole::Replica).map(|it| it.node.clone()).collect();
    }
    holds
}

fn describe_redundancy(
    redundant: bool,
    status: &MirrorVolumeStatus,
    newest: Option<&Seen>,
    dead: &BTreeSet<String>,
) -> (&'static str, String) {
    if redundant {
        return ("InSync", String::new());
    }
    let joining = newest.map_or(&[][..], |seen| &seen.joining);
    let missing: Vec<&str> = status
        .placement
        .iter()
        .filter(|placed| placed.role == ReplicaRole::Replica)
        .filter(|placed| !status.in_sync.contains(&placed.node) || dead.contains(&placed.node))
        .map(|placed| &*placed.node)
        .collect();
    if joining.is_empty() {
        return ("ReplicaMissing", format!("not in sync: {}", missing.join(", ")));
    }
    ("Resync", format!("filled: {}", joining.join(", ")))
}

/// Why the volume does not serve, if it does not.
fn suspended(observed: &Observed<'_>, living: usize, known: bool) -> Option<(&'static str, String)> {
    let waits = observed.parts.iter().find_map(|part| {
        let said = part.status.as_ref()?;
        let stuck = said.attached.is_some() && !said.suspended.is_empty();
        (stuck && !observed.dead.contains(&part.spec.node_name))
            .then(|| format!("{}: {}", part.spec.node_name, said.suspended))
    });
    match waits {
        Some(message) => Some(("Suspended", message)),
        None if known && living == 0 => Some(("NoReplica", "no replica that is in sync is there".to_owned())),
        None => None,
    }
}

/// What nodes say of their parts, and what parts say of each other.
fn note_troubles(observed: &Observed<'_>, conditions: &mut Vec<Condition>, generation: Option<i64>, now: &Time) {
    let lost = observed.parts.iter().find_map(|part| {
        let of = &part.status.as_ref()?.conditions;
        of.iter().find(|it| it.type_ == REGISTER_LOST && it.status == "True").map(|it| it.message.clone())
    });
    let lost = observed.register.map(str::to_owned).or(lost);
    let replicas = observed.parts.iter().filter(|part| part.spec.role == ReplicaRole::Replica);
    let living = replicas.filter(|part| !observed.dead.contains(&part.spec.node_name));
    let generations: BTreeMap<&str, &str> = living
        .filter_map(|part| Some((&*part.status.as_ref()?.seen.generation, &*part.spec.node_name)))
        .filter(|(generation, _)| !generation.is_empty())
        .collect();
    let diverged = (generations.len() > 1).then(|| {
        let of: Vec<String> = generations.iter().map(|(generation, node)| format!("{node} has {generation}")).collect();
        format!("several generations: {}", of.join(", "))
    });
    for (kind, reason, trouble) in [(REGISTER_LOST, "RegisterLost", lost), (DIVERGED, "SeveralGenerations", diverged)] {
        match trouble {
            Some(message) => {
                set_condition(conditions, condition(kind, true, reason, &message, generation, now.clone()));
            }
            None => conditions.retain(|it| it.type_ != kind),
        }
    }
}

/// The part of the resync that is furthest behind, as people read it.
fn progress(parts: &[&MirrorReplica]) -> Option<String> {
    said(parts).filter_map(|said| said.resync.as_ref()?.percent()).min().map(|percent| format!("{percent} %"))
}

/// Nodes that have the volume attached, or are its writers, as far as anybody knows; without those that are lost.
#[must_use]
pub fn users(volume: &MirrorVolume, parts: &[&MirrorReplica], dead: &BTreeSet<String>) -> Vec<String> {
    let attached = parts
        .iter()
        .filter(|part| part.status.as_ref().is_some_and(|status| status.attached.is_some()))
        .map(|part| part.spec.node_name.clone());
    if parts.is_empty() {
        // What is written down of the volume outlives its parts, and says nothing any more.
        return Vec::new();
    }
    // It is also older than what they say.
    let written = volume.status.as_ref();
    let newest = newest(written.and_then(|status| status.generation.as_deref()), parts);
    let writers =
        newest.map_or_else(|| written.map(|it| it.writers.clone()).unwrap_or_default(), |it| it.writers.clone());
    let users: BTreeSet<String> = attached.chain(writers).filter(|node| !dead.contains(node)).collect();
    users.into_iter().collect()
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
