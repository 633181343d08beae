use std::collections::BTreeSet;
use std::fmt::Write as _;

use lockstep_api::MirrorVolume;
use serde_json::json;

use super::plan_guards;

fn volume(name: &str, replicas: &str, tie_breaker: &str, in_sync: &str, writers: &str) -> MirrorVolume {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let placed = |nodes: &str, role: &str| {
        let place = |node: String| json!({ "node": node, "nodeId": 1, "incarnation": 1, "role": role });
        words(nodes).into_iter().map(place).collect::<Vec<_>>()
    };
    let placement = [placed(replicas, "Replica"), placed(tie_breaker, "TieBreaker")].concat();
    serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1",
        "kind": "MirrorVolume",
        "metadata": { "name": name },
        "spec": { "sizeBytes": 4096, "replicas": 2 },
        "status": { "placement": placement, "inSync": words(in_sync), "writers": words(writers) },
    }))
    .expect("a volume")
}

#[test]
fn a_node_with_the_last_good_copy_is_not_drained() {
    let set = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<String>>();
    let whole = volume("whole", "a b", "c", "a b", "a");
    let half = volume("half", "a b", "c", "b", "b");
    let idle = volume("idle", "a b", "c", "b", "");
    let three = volume("three", "a b c", "", "a b c", "a");
    let mut table = String::new();
    for (what, volumes, leaving, lost) in [
        ("all in sync", vec![&whole], "", ""),
        ("one in sync", vec![&half], "", ""),
        ("nobody writes", vec![&idle], "", ""),
        ("b is leaving", vec![&whole], "b", ""),
        ("b is lost", vec![&whole], "", "b"),
        ("the tie-breaker is lost", vec![&whole], "", "c"),
        ("three replicas, one leaves", vec![&three], "c", ""),
        ("two volumes", vec![&whole, &half], "", ""),
        ("another node is lost", vec![&whole], "", "d"),
    ] {
        writeln!(table, "{what}:").expect("text");
        for (node, guard) in plan_guards(&set("a b c d"), &volumes, &set(leaving), &set(lost)) {
            writeln!(table, "  {node}: {guard:?}").expect("text");
        }
    }
    insta::assert_snapshot!(table);
}
