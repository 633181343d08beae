use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Bound, Claims, plan_pod, plan_verdict};
use k8s_openapi::api::core::v1::Pod;
use lockstep_api::MirrorReplica;
use serde_json::json;

fn part(volume: &str, node: &str, attached: bool, writers: &[&str], unreachable: &[&str]) -> MirrorReplica {
    serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1",
        "kind": "MirrorReplica",
        "metadata": { "name": format!("{volume}.{node}") },
        "spec": {
            "volume": volume,
            "nodeName": node,
            "role": "Replica",
            "definition": {
                "id": "00", "generation": "01", "sizeBytes": 4096, "access": "SingleWriter", "arbiter": "Peers",
                "policingShards": 0, "ack": "Disk", "onQuorumLoss": "Suspend", "replicas": [],
            },
        },
        "status": {
            "attached": attached.then_some("ReadWrite"),
            "seen": { "writers": writers },
            "unreachable": unreachable,
        },
    }))
    .expect("a part")
}

#[test]
fn a_node_is_dead_when_its_lease_is_silent_and_every_living_member_lost_it() {
    let mut table = String::new();
    // What the nodes a, b and c say of volume v, which a writes; b, c: whether they hear a.
    for (b_lost, c_lost) in [(false, false), (true, false), (true, true)] {
        for silent in ["", "a", "a b", "a b c", "b"] {
            let lost = |lost: bool| if lost { vec!["a"] } else { vec![] };
            let parts = [
                part("v", "a", true, &["a"], &[]),
                part("v", "b", false, &["a"], &lost(b_lost)),
                part("v", "c", false, &["a"], &lost(c_lost)),
            ];
            let parts: Vec<&MirrorReplica> = parts.iter().collect();
            let set: BTreeSet<String> = silent.split_whitespace().map(str::to_owned).collect();
            let verdict = plan_verdict("a", &parts, &set);
            let hears = |lost: bool| if lost { "lost it" } else { "hears it" };
            writeln!(table, "b {:8} c {:8} silent {silent:5} -> {verdict:?}", hears(b_lost), hears(c_lost))
                .expect("text");
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_node_without_our_volumes_and_one_known_by_others_words_only() {
    let silent: BTreeSet<String> = ["a".to_owned()].into();
    let idle = [part("v", "a", false, &[], &[]), part("v", "b", false, &[], &["a"])];
    let verdict = plan_verdict("a", &idle.iter().collect::<Vec<_>>(), &silent);
    assert_eq!(verdict, super::Verdict::Unconcerned);
    // An attachment whose own part never said anything; its peers know it as a writer.
    let known = [part("v", "b", false, &["a"], &["a"])];
    let verdict = plan_verdict("a", &known.iter().collect::<Vec<_>>(), &silent);
    assert_eq!(verdict, super::Verdict::Dead { volumes: vec!["v".to_owned()] });
}

fn pod(extra: serde_json::Value, volumes: serde_json::Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": "p",
            "namespace": "n",
            "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "u", "controller": true },
            ],
        },
        "spec": { "containers": [], "volumes": volumes },
    });
    for (key, value) in extra.as_object().expect("an object") {
        pod["metadata"][key] = value.clone();
    }
    serde_json::from_value(pod).expect("a pod")
}

#[test]
fn pods_are_moved_where_nothing_can_be_written_twice() {
    let claims: Claims = [
        (("n".to_owned(), "ours".to_owned()), Bound::Ours("v".to_owned())),
        (("n".to_owned(), "p-scratch".to_owned()), Bound::Ours("w".to_owned())),
        (("n".to_owned(), "other".to_owned()), Bound::Other { read_only: false }),
        (("n".to_owned(), "library".to_owned()), Bound::Other { read_only: true }),
    ]
    .into();
    let claim = |name: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } });
    let read = |name: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": name, "readOnly": true } });
    let none = json!({});
    let mut table = String::new();
    for (what, pod) in [
        ("ours", pod(none.clone(), json!([claim("ours")]))),
        ("generic ephemeral", pod(none.clone(), json!([{ "name": "scratch", "ephemeral": {} }]))),
        (
            "with emptyDir and Secret",
            pod(none.clone(), json!([claim("ours"), { "name": "e", "emptyDir": {} }, { "name": "s", "secret": {} }])),
        ),
        ("with hostPath", pod(none.clone(), json!([claim("ours"), { "name": "h", "hostPath": { "path": "/x" } }]))),
        ("with another's", pod(none.clone(), json!([claim("ours"), claim("other")]))),
        ("with another's, read", pod(none.clone(), json!([claim("ours"), read("other")]))),
        ("with a read-only one", pod(none.clone(), json!([claim("ours"), claim("library")]))),
        ("with an unknown claim", pod(none.clone(), json!([claim("ours"), claim("unknown")]))),
        ("with NFS", pod(none.clone(), json!([claim("ours"), { "name": "f", "nfs": { "server": "s", "path": "/" } }]))),
        ("none of ours", pod(none.clone(), json!([claim("other")]))),
        ("no controller", pod(json!({ "ownerReferences": [] }), json!([claim("ours")]))),
        (
            "annotated",
            pod(json!({ "annotations": { "lockstep.storage/keep-on-fence": "true" } }), json!([claim("ours")])),
        ),
        (
            "annotated otherwise",
            pod(json!({ "annotations": { "lockstep.storage/keep-on-fence": "no" } }), json!([claim("ours")])),
        ),
    ] {
        writeln!(table, "{what:24} -> {:?}", plan_pod(&pod, &claims)).expect("text");
    }
    insta::assert_snapshot!(table);
}
