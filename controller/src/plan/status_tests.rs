use std::collections::BTreeSet;
use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use lockstep_api::{MirrorReplica, MirrorVolume, MirrorVolumeStatus};
use serde_json::{Value, json};

use super::{Observed, plan_status, users};
use crate::plan::transitions::plan_transitions;

fn volume() -> MirrorVolume {
    let place = |node: &str, role: &str| json!({ "node": node, "nodeId": 1, "incarnation": 1, "role": role });
    serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1",
        "kind": "MirrorVolume",
        "metadata": { "name": "v", "generation": 1 },
        "spec": { "sizeBytes": 1 << 30, "replicas": 2 },
        "status": {
            "id": "1d", "generation": "0a", "arbiter": "Peers", "sizeBytes": 1 << 30,
            "placement": [place("a", "Replica"), place("b", "Replica"), place("c", "TieBreaker")],
        },
    }))
    .expect("a volume")
}

/// A part as its node tells of it: `a` and `b` replicas, `c` the tie-breaker.
fn part(node: &str, status: Value) -> MirrorReplica {
    serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1",
        "kind": "MirrorReplica",
        "metadata": { "name": format!("v.{node}") },
        "spec": {
            "volume": "v", "nodeName": node, "role": if node == "c" { "TieBreaker" } else { "Replica" },
            "definition": {
                "id": "1d", "generation": "0a", "sizeBytes": 1 << 30, "access": "SingleWriter", "arbiter": "Peers",
                "policingShards": 0, "ack": "Disk", "onQuorumLoss": "Suspend", "replicas": [],
            },
        },
        "status": status,
    }))
    .expect("a part")
}

fn seen(epoch: u64, in_sync: &str, joining: &str, writers: &str) -> Value {
    seen_of("0a", epoch, in_sync, joining, writers)
}

fn seen_of(generation: &str, epoch: u64, in_sync: &str, joining: &str, writers: &str) -> Value {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    json!({
        "generation": generation, "epoch": epoch, "sizeBytes": 2_i64 << 30, "inSync": words(in_sync),
        "joining": words(joining), "writers": words(writers),
    })
}

fn ready(seen: &Value) -> Value {
    json!({ "phase": "Ready", "seen": seen })
}

fn show(status: &MirrorVolumeStatus) -> String {
    let conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|it| format!("{}={} {} {:?}", it.type_, it.status, it.reason, it.message))
        .collect();
    format!(
        "{:?} {} epoch {} size {} writers {:?} dirty {} resync {}\n    {}",
        status.state,
        status.ready.as_deref().unwrap_or_default(),
        status.epoch,
        status.size.as_deref().unwrap_or_default(),
        status.writers,
        status.dirty_bytes,
        status.resync.as_deref().unwrap_or("-"),
        conditions.join("\n    "),
    )
}

#[test]
fn a_volume_shows_the_newest_of_what_its_members_say() {
    let good = seen(5, "a b", "", "a");
    let alone = seen(6, "a", "", "a");
    let filling = seen(7, "a", "b", "a");
    let with = |base: &Value, key: &str, value: Value| {
        let mut changed = ready(base);
        changed[key] = value;
        changed
    };
    let resync = json!({ "bytesDone": 43, "bytesTotal": 100, "bytesPerSecond": 1 });
    let failed = json!({ "phase": "Failed", "message": "no space" });
    // One after the other: each with the status that the one before it left.
    let steps: Vec<(&str, [Value; 3], &str, Option<&str>)> = vec![
        ("made on one", [ready(&good), json!({}), json!({})], "", None),
        ("failed on b", [ready(&good), failed, json!({})], "", None),
        ("made on all", [ready(&good), ready(&good), ready(&good)], "", None),
        ("b is lost, and nobody noticed yet", [ready(&good), ready(&good), ready(&good)], "b", None),
        ("a goes on without b, which says old things", [ready(&alone), ready(&good), ready(&alone)], "b", None),
        (
            "b is filled",
            [with(&filling, "dirtyBytes", json!(4096)), with(&filling, "resync", resync), ready(&filling)],
            "",
            None,
        ),
        ("b is in sync", [ready(&seen(8, "a b", "", "a")), ready(&filling), ready(&filling)], "", None),
        (
            "a has no quorum",
            [
                json!({ "phase": "Ready", "seen": seen(8, "a b", "", "a"), "attached": "ReadWrite", "suspended": "no quorum" }),
                ready(&filling),
                ready(&filling),
            ],
            "b",
            None,
        ),
        ("both replicas are lost", [ready(&good), ready(&good), ready(&good)], "a b", None),
        (
            "b was forced and a has not rejoined",
            [ready(&good), ready(&seen_of("0b", 1, "b", "", "b")), ready(&seen_of("0b", 1, "b", "", "b"))],
            "",
            None,
        ),
        ("the register is lost", [ready(&good), ready(&good), ready(&good)], "", Some("Lease x does not exist")),
        ("all is well again", [ready(&good), ready(&good), ready(&good)], "", None),
    ];
    let mut volume = volume();
    let mut table = String::new();
    let now = Time(Timestamp::UNIX_EPOCH);
    for (what, said, dead, register) in steps {
        let parts: Vec<MirrorReplica> =
            ["a", "b", "c"].into_iter().zip(said).map(|(node, status)| part(node, status)).collect();
        let parts: Vec<&MirrorReplica> = parts.iter().collect();
        let dead: BTreeSet<String> = dead.split_whitespace().map(str::to_owned).collect();
        let status = plan_status(Observed { volume: &volume, parts: &parts, dead: &dead, register }, &now);
        let used = users(&volume, &parts, &dead);
        writeln!(table, "{what}:\n  {}\n  used on {used:?}", show(&status)).expect("text");
        for it in plan_transitions(&volume.status.clone().unwrap_or_default(), &status) {
            let by = if it.told_by_nodes { "logged" } else { "told" };
            writeln!(table, "  {by}: {} {}", it.reason, it.message).expect("text");
        }
        let again = MirrorVolume { status: Some(status.clone()), ..volume.clone() };
        let observed = Observed { volume: &again, parts: &parts, dead: &dead, register };
        assert_eq!(plan_status(observed, &Time(Timestamp::now())), status, "{what}: settled");
        volume = again;
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_volume_without_parts_is_used_by_nobody() {
    let mut volume = volume();
    volume.status.get_or_insert_default().writers = vec!["a".to_owned()];
    assert!(users(&volume, &[], &BTreeSet::new()).is_empty());
    let silent = part("b", json!({}));
    assert_eq!(users(&volume, &[&silent], &BTreeSet::new()), ["a"], "what is written down is all that is known");
}
