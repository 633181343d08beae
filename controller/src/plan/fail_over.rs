//! What to do about a node that is not heard any more: a pure decision over what this program and the other members saw.
//!
//! Two witnesses are needed. The node's Lease was not renewed (its agent is away, or cut off from the API server), *and* every other
//! member that lives has lost its engine. One of them alone is an ordinary trouble: a sick engine, a cut of one network. With
//! both, the data plane has fenced the node or is about to, and its pods may be deleted without asking it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::ResourceExt as _;
use lockstep_api::{MirrorReplica, names};

/// What is believed of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its Lease is renewed.
    Alive,
    /// It is silent, and uses none of our volumes.
    Unconcerned,
    /// It is silent, and somebody still hears its engine, or nobody is there who could say.
    Doubted {
        /// Whose word is missing for which volume.
        reason: String,
    },
    /// It is dead, as far as storage goes.
    Dead {
        /// The volumes that it has attached.
        volumes: Vec<String>,
    },
}

/// What is believed of `node`.
///
/// `parts` are the parts of all volumes; `silent` are all nodes whose Leases are not renewed.
#[must_use]
pub fn plan_verdict(node: &str, parts: &[&MirrorReplica], silent: &BTreeSet<String>) -> Verdict {
    if !silent.contains(node) {
        return Verdict::Alive;
    }
    let mut volumes: BTreeMap<&str, Vec<&MirrorReplica>> = BTreeMap::new();
    for part in parts {
        volumes.entry(&part.spec.volume).or_default().push(part);
    }
    volumes.retain(|_, parts| uses(node, parts));
    if volumes.is_empty() {
        return Verdict::Unconcerned;
    }
    for (volume, parts) in &volumes {
        let mut witnesses = parts
            .iter()
            .filter(|part| part.spec.node_name != node && !silent.contains(&part.spec.node_name))
            .filter_map(|part| Some((&part.spec.node_name, part.status.as_ref()?)))
            .peekable();
        if witnesses.peek().is_none() {
            return Verdict::Doubted { reason: format!("{volume}: no other member is there") };
        }
        if let Some((hears, _)) = witnesses.find(|(_, status)| !status.unreachable.iter().any(|it| it == node)) {
            return Verdict::Doubted { reason: format!("{volume}: {hears} hears its engine") };
        }
    }
    Verdict::Dead { volumes: volumes.into_keys().map(str::to_owned).collect() }
}

/// Whether the node has the volume attached, by its own last word or by that of others.
fn uses(node: &str, parts: &[&MirrorReplica]) -> bool {
    parts.iter().filter_map(|part| Some((part, part.status.as_ref()?))).any(|(part, status)| {
        (part.spec.node_name == node && status.attached.is_some()) || status.seen.writers.iter().any(|it| it == node)
    })
}

/// What a claim is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// One of our volumes.
    Ours(String),
    /// Another driver's volume.
    Other {
        /// Nobody can write it.
        read_only: bool,
    },
}

/// Claims by namespace and name.
pub type Claims = BTreeMap<(String, String), Bound>;

/// What becomes of a pod of a node that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodPlan {
    /// It does not use our volumes.
    NotOurs,
    /// It goes, so that its owner makes it anew elsewhere.
    Move,
    /// It stays.
    Keep {
        /// Why, for the event.
        reason: String,
    },
}

/// Decides over one pod of a node that is lost, or whose engine is down.
#[must_use]
pub fn plan_pod(pod: &Pod, claims: &Claims) -> PodPlan {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let kinds: Vec<(&str, Option<Kind>)> =
        volumes.iter().map(|volume| (volume.name.as_str(), kind(pod, volume, claims))).collect();
    if !kinds.iter().any(|(_, kind)| *kind == Some(Kind::Ours)) {
        return PodPlan::NotOurs;
    }
    let keep = |reason: String| PodPlan::Keep { reason };
    if pod.annotations().get(names::ANNOTATION_KEEP_ON_FENCE).map(String::as_str) == Some("true") {
        return keep(format!("its annotation {} says so", names::ANNOTATION_KEEP_ON_FENCE));
    }
    if !pod.owner_references().iter().any(|owner| owner.controller == Some(true)) {
        return keep("nothing would make it anew: it has no controller".to_owned());
    }
    match kinds.iter().find(|(_, kind)| *kind == Some(Kind::Foreign)) {
        Some((name, _)) => {
            keep(format!("nobody fences its volume {name}, which is of another kind and can be written"))
        }
        None => PodPlan::Move,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    /// Shared with other nodes, written, and not ours.
    Foreign,
}

/// What a volume of a pod is, as far as moving the pod is concerned. What lives and dies with the pod, or stays on its node, does not
/// matter.
fn kind(pod: &Pod, volume: &Volume, claims: &Claims) -> Option<Kind> {
    let (claim, read_only) = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => (claim.claim_name.clone(), claim.read_only == Some(true)),
        (None, Some(_)) => (format!("{}-{}", pod.name_any(), volume.name), false),
        (None, None) => return is_shared(volume).then_some(Kind::Foreign),
    };
    match claims.get(&(pod.namespace().unwrap_or_default(), claim)) {
        Some(Bound::Ours(_)) => Some(Kind::Ours),
        Some(Bound::Other { read_only: true }) => None,
        Some(Bound::Other { read_only: false }) | None => (!read_only).then_some(Kind::Foreign),
    }
}

/// Storage of other systems, named in the pod itself.
fn is_shared(volume: &Volume) -> bool {
    let writable = |read_only: Option<bool>| read_only != Some(true);
    volume.nfs.as_ref().is_some_and(|it| writable(it.read_only))
        || volume.iscsi.as_ref().is_some_and(|it| writable(it.read_only))
        || volume.fc.as_ref().is_some_and(|it| writable(it.read_only))
        || volume.cephfs.as_ref().is_some_and(|it| writable(it.read_only))
        || volume.rbd.as_ref().is_some_and(|it| writable(it.read_only))
        || volume.azure_file.as_ref().is_some_and(|it| writable(it.read_only))
        || volume.flex_volume.as_ref().is_some_and(|it| writable(it.read_only))
}

/// The volumes of ours that a pod uses.
#[must_use]
pub fn volumes_of(pod: &Pod, claims: &Claims) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let claim = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        (None, None) => None,
    };
    let namespace = pod.namespace().unwrap_or_default();
    let bound = |volume: &Volume| claims.get(&(namespace.clone(), claim(volume)?));
    let ours = volumes.iter().filter_map(|volume| match bound(volume)? {
        Bound::Ours(name) => Some(name.clone()),
        Bound::Other { .. } => None,
    });
    ours.collect()
}

#[cfg(test)]
#[path = "fail_over_tests.rs"]
mod tests;
