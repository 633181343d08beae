//! What callers are told of a volume.

use std::borrow::Borrow;

use kube::ResourceExt as _;
use lockstep_api::{Access, MirrorVolume, MirrorVolumeSpec, REGISTER_LOST, ReplicaRole, names};
use lockstep_csi::controller_port::{Confirm, Listed, Page, Volume};
use lockstep_csi::health::{Severity, VolumeHealth};
use lockstep_csi::topology::Topology;
use lockstep_csi::volume::VolumeId;

use super::parameters::{Attributes, access, parse_class};
use crate::plan::pools::bytes;
use crate::plan::status::{DIVERGED, REDUNDANT, SERVING, is_created};

/// The size that all replicas have, in bytes; before the volume is created, the one that they will have.
pub(super) fn size(volume: &MirrorVolume) -> u64 {
    let seen = volume.status.as_ref().map_or(0, |status| status.size_bytes);
    bytes(if seen > 0 { seen } else { volume.spec.size_bytes })
}

/// A volume that is created, as callers see it.
pub(super) fn answer(volume: &MirrorVolume) -> Option<Volume> {
    let id = VolumeId::parse(&volume.name_any()).filter(|_| is_created(volume))?;
    Some(Volume {
        id,
        capacity_bytes: size(volume),
        // All that a node has to know is in the objects.
        context: Default::default(),
        accessible_topology: topology(volume),
    })
}

/// From where it is reachable: with remote access from every node of ours, so that a replica may move later.
fn topology(volume: &MirrorVolume) -> Vec<Topology> {
    let segment = |key: &str, value: &str| Topology { segments: [(key.to_owned(), value.to_owned())].into() };
    if volume.spec.remote_access {
        return vec![segment(names::TOPOLOGY_DRIVER, "true")];
    }
    let placement = volume.status.iter().flat_map(|status| &status.placement);
    placement
        .filter(|placed| placed.role == ReplicaRole::Replica)
        .map(|placed| segment(names::TOPOLOGY_NODE, &placed.node))
        .collect()
}

/// A part of the list of all volumes of which `entry` gives something.
pub(super) fn page<T, V: Borrow<MirrorVolume>>(
    page: &Page,
    volumes: &[V],
    entry: impl Fn(&MirrorVolume) -> Option<T>,
) -> Listed<T> {
    let mut entries: Vec<(VolumeId, T)> = volumes
        .iter()
        .filter_map(|volume| Some((VolumeId::parse(&volume.borrow().name_any())?, volume.borrow())))
        .filter(|(id, _)| page.after.as_ref().is_none_or(|after| id > after))
        .filter_map(|(id, volume)| Some((id, entry(volume)?)))
        .collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let most = page.entries_max.unwrap_or(usize::MAX);
    let more = entries.len() > most;
    entries.truncate(most);
    Listed { entries, more }
}

/// In what two volumes differ that should be one; sizes and places are compared elsewhere.
pub(super) fn difference(wanted: &MirrorVolumeSpec, found: &MirrorVolumeSpec) -> Option<&'static str> {
    let equal = [
        ("access mode", wanted.access == found.access),
        ("arbiter", wanted.arbiter == found.arbiter),
        ("policing", wanted.policing == found.policing),
        ("replicas", wanted.replicas == found.replicas),
        ("ack", wanted.ack == found.ack),
        ("onQuorumLoss", wanted.on_quorum_loss == found.on_quorum_loss),
        ("poolSelector", wanted.pool_selector == found.pool_selector),
        ("remoteAccess", wanted.remote_access == found.remote_access),
        ("frontEnd", wanted.front_end == found.front_end),
        ("fuse", wanted.fuse == found.fuse),
        ("resyncRate", wanted.resync_rate == found.resync_rate),
        ("writePriority", wanted.write_priority == found.write_priority),
    ];
    equal.into_iter().find(|(_, equal)| !equal).map(|(what, _)| what)
}

/// Why a volume cannot be used as is asked, if it cannot.
pub(super) fn refusal(volume: &MirrorVolume, question: &Confirm) -> Option<String> {
    if access(&question.capabilities) == Access::MultiWriter && volume.spec.access == Access::SingleWriter {
        return Some("it was made for one writer: several nodes cannot use it at once".to_owned());
    }
    if !question.context.is_empty() {
        return Some("it has no volume context".to_owned());
    }
    if !question.parameters.is_empty() {
        let mut wanted = match parse_class(&question.parameters) {
            Ok(wanted) => wanted,
            Err(error) => return Some(error.to_string()),
        };
        // Not parameters of a class, or changed by attributes since.
        wanted.access = volume.spec.access;
        wanted.resync_rate = volume.spec.resync_rate;
        wanted.write_priority = volume.spec.write_priority;
        for changeable in ["replicas", "ack"].into_iter().filter(|name| !question.parameters.contains_key(*name)) {
            match changeable {
                "replicas" => wanted.replicas = volume.spec.replicas,
                _ => wanted.ack = volume.spec.ack,
            }
        }
        if let Some(what) = difference(&wanted, &volume.spec) {
            return Some(format!("it was made with another {what}"));
        }
    }
    let attributes = match Attributes::parse(&question.mutable_parameters) {
        Ok(attributes) => attributes,
        Err(error) => return Some(error.to_string()),
    };
    let mut wanted = volume.spec.clone();
    attributes.put(&mut wanted);
    difference(&wanted, &volume.spec).map(|what| format!("it has another {what}"))
}

/// What is wrong with a volume, of its conditions.
pub(super) fn health(volume: &MirrorVolume) -> Vec<VolumeHealth> {
    if !is_created(volume) {
        return Vec::new();
    }
    let conditions = volume.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let adverse = |kind: &str, status: &str| conditions.iter().find(|it| it.type_ == kind && it.status == status);
    let mut health = Vec::new();
    for (kind, status, severity, reasons) in [
        (REDUNDANT, "False", Severity::Degraded, &["ReplicaMissing", "Resync"][..]),
        (SERVING, "False", Severity::Inaccessible, &["Suspended", "NoReplica"][..]),
        (REGISTER_LOST, "True", Severity::Degraded, &["RegisterLost"][..]),
        (DIVERGED, "True", Severity::Degraded, &["SeveralGenerations"][..]),
    ] {
        let Some(condition) = adverse(kind, status) else { continue };
        let reason = reasons.iter().find(|reason| **reason == condition.reason).unwrap_or(&reasons[0]);
        health.push(VolumeHealth { severity, reason, message: condition.message.clone() });
    }
    health
}
