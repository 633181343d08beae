//! Whether Lockstep may be uninstalled: not while anything is left that only its programs can take away.
//!
//! Finalizers would keep the objects for ever, and replicas would stay on nodes that nobody looks after any more.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt as _;
use lockstep_api::{MirrorReplica, MirrorVolume, names};

use super::status::DELETION_BLOCKED;

/// So many are named: the log of a pod is read by people, and its end by `kubectl describe`.
const NAMED_MAX: usize = 50;

/// What is left of Lockstep in a cluster.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Volumes.
    pub volumes: Vec<MirrorVolume>,
    /// Their parts on nodes.
    pub parts: Vec<MirrorReplica>,
    /// Persistent volumes, of all drivers.
    pub persistent: Vec<PersistentVolume>,
}

/// One thing that is left.
#[derive(Debug)]
struct Remnant {
    /// For people.
    what: String,
    /// What they have to do; nothing: wait.
    commands: Vec<String>,
    /// Nodes are at it, or will be when they are back.
    is_going: bool,
}

/// Why Lockstep is not uninstalled, and what to do first. Nothing: it may be.
#[must_use]
pub fn plan_refusal(left: &Left) -> Option<String> {
    let remnants = remnants(left);
    if remnants.is_empty() {
        return None;
    }
    let mut text =
        format!("Lockstep is not uninstalled, because its volumes would stay behind ({}):\n", remnants.len());
    // Writing into memory does not fail.
    for remnant in remnants.iter().take(NAMED_MAX) {
        let _ = writeln!(text, "  {}", remnant.what);
    }
    let unnamed = remnants.len().saturating_sub(NAMED_MAX);
    if unnamed > 0 {
        let _ = writeln!(text, "  and {unnamed} more");
    }
    let commands: BTreeSet<&String> = remnants.iter().flat_map(|remnant| &remnant.commands).collect();
    if !commands.is_empty() {
        text.push_str("If their data is not needed any more:\n");
        for command in commands.iter().take(NAMED_MAX) {
            let _ = writeln!(text, "  {command}");
        }
    }
    if remnants.iter().any(|remnant| remnant.is_going) {
        text.push_str(
            "A node that is away takes its part away when it is back. One that never comes back is given up:\n",
        );
        text.push_str("  kubectl delete node NODE && kubectl delete mirrorpool NODE\n");
    }
    text.push_str("Uninstall again when nothing is left of:\n  kubectl get mirrorvolumes,mirrorreplicas\n");
    Some(text)
}

fn remnants(left: &Left) -> Vec<Remnant> {
    let ours: Vec<&PersistentVolume> = left.persistent.iter().filter(|it| handle(it).is_some()).collect();
    let of = |volume: &str| ours.iter().find(|it| handle(it) == Some(volume)).copied();
    let exists = |name: &str| left.volumes.iter().any(|volume| volume.name_any() == name);
    let volumes = left.volumes.iter().map(|volume| of_volume(volume, of(&volume.name_any())));
    let without_volume = ours.iter().filter(|it| !handle(it).is_some_and(exists)).map(|persistent| {
        let (name, volume) = (persistent.name_any(), handle(persistent).unwrap_or_default());
        let commands = vec![format!("kubectl delete persistentvolume {name}")];
        Remnant { what: format!("persistent volume {name}: there is no volume {volume}"), commands, is_going: false }
    });
    let without_parent = left.parts.iter().filter(|part| !exists(&part.spec.volume)).map(|part| {
        let what = format!("{}, on {}: of a volume that is deleted", part.name_any(), part.spec.node_name);
        let deleting = part.metadata.deletion_timestamp.is_some();
        let commands = Vec::from_iter((!deleting).then(|| format!("kubectl delete mirrorreplica {}", part.name_any())));
        Remnant { what, commands, is_going: true }
    });
    volumes.chain(without_volume).chain(without_parent).collect()
}

/// What a volume is to people: its claim, where there is one.
fn of_volume(volume: &MirrorVolume, persistent: Option<&PersistentVolume>) -> Remnant {
    let name = volume.name_any();
    let status = volume.status.as_ref();
    if volume.metadata.deletion_timestamp.is_some() {
        let conditions = status.map(|status| &status.conditions[..]).unwrap_or_default();
        let blocked = conditions.iter().find(|it| it.type_ == DELETION_BLOCKED && it.status == "True");
        let why = blocked.map_or("its nodes take their parts away", |it| &it.message);
        return Remnant {
            what: format!("volume {name} is being deleted: {why}"),
            commands: Vec::new(),
            is_going: true,
        };
    }
    let users = status.map(|status| status.writers.join(", ")).filter(|users| !users.is_empty());
    let used = users.map(|users| format!(", in use on {users}")).unwrap_or_default();
    let delete_volume = format!("kubectl delete mirrorvolume {name}");
    let (what, commands) = match persistent.map(|it| (it, claim_of(it))) {
        Some((_, Some((namespace, claim)))) => (
            format!("claim {namespace}/{claim}: volume {name}{used}"),
            vec![format!("kubectl -n {namespace} delete persistentvolumeclaim {claim}")],
        ),
        Some((persistent, None)) => {
            let persistent = persistent.name_any();
            let what = format!("persistent volume {persistent}, which has no claim: volume {name}{used}");
            (what, vec![format!("kubectl delete persistentvolume {persistent} && {delete_volume}")])
        }
        None => (format!("volume {name}, which no persistent volume names{used}"), vec![delete_volume]),
    };
    Remnant { what, commands, is_going: false }
}

/// The volume of ours that a persistent volume names.
fn handle(persistent: &PersistentVolume) -> Option<&str> {
    let csi = persistent.spec.as_ref()?.csi.as_ref()?;
    (csi.driver == names::DRIVER).then_some(&*csi.volume_handle)
}

/// The claim that it is bound to, with its namespace, while there is one.
fn claim_of(persistent: &PersistentVolume) -> Option<(&str, &str)> {
    let phase = persistent.status.as_ref().and_then(|status| status.phase.as_deref());
    let claim = persistent.spec.as_ref()?.claim_ref.as_ref().filter(|_| phase != Some("Released"))?;
    Some((claim.namespace.as_deref()?, claim.name.as_deref()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, more: &Value) -> MirrorVolume {
        let mut object = json!({
            "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorVolume", "metadata": { "name": name },
            "spec": { "sizeBytes": 4096, "replicas": 2 },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        serde_json::from_value(object).expect("a volume")
    }

    fn persistent(name: &str, driver: &str, handle: &str, phase: &str) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": { "name": name }, "status": { "phase": phase },
            "spec": {
                "csi": { "driver": driver, "volumeHandle": handle },
                "claimRef": { "namespace": "shop", "name": "data" },
            },
        }))
        .expect("a persistent volume")
    }

    #[test]
    fn what_is_left_is_named_with_what_to_do() {
        let blocked = json!({
            "metadata": { "name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "status": { "conditions": [{
                "type": "DeletionBlocked", "status": "True", "reason": "NodesAway", "lastTransitionTime": "2026-01-01T00:00:00Z",
                "message": "b will delete what it has when it is back",
            }] },
        });
        let used = json!({ "status": { "writers": ["a"] } });
        let left = Left {
            volumes: vec![
                volume("claimed", &used),
                volume("released", &json!({})),
                volume("alone", &json!({})),
                volume("going", &blocked),
            ],
            parts: Vec::new(),
            persistent: vec![
                persistent("pv-1", names::DRIVER, "claimed", "Bound"),
                persistent("pv-2", names::DRIVER, "released", "Released"),
                persistent("pv-3", names::DRIVER, "gone", "Bound"),
                persistent("theirs", "csi.example.com", "x", "Bound"),
            ],
        };
        insta::assert_snapshot!(plan_refusal(&left).expect("it is refused"));
    }

    #[test]
    fn volumes_of_others_are_no_reason() {
        let theirs = vec![persistent("theirs", "csi.example.com", "x", "Bound")];
        assert_eq!(plan_refusal(&Left { persistent: theirs, ..Left::default() }), None);
    }

    #[test]
    fn of_many_some_are_named() {
        let volumes = (0..120).map(|at| volume(&format!("v-{at:03}"), &json!({}))).collect();
        let text = plan_refusal(&Left { volumes, ..Left::default() }).expect("it is refused");
        assert!(text.contains("(120)") && text.contains("and 70 more") && !text.contains("v-050"), "{text}");
    }
}
