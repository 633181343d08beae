use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use lockstep_api::MirrorVolume;
use proptest::{collection, prop_assert, proptest};
use serde_json::json;

use super::{Guard, Seen, TURN, plan_guards};

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

/// `+` cordoned, `-` without its guard, `o` open, `t` its turn was long ago.
fn seen(text: &str) -> BTreeMap<String, Seen> {
    let one = |word: &str| {
        let seen = Seen {
            wanted: word.contains('+'),
            guarded: !word.contains('-'),
            open: word.contains('o'),
            turn: (word.contains('o') || word.contains('t'))
                .then(|| if word.contains('t') { TURN } else { Duration::from_secs(1) }),
        };
        (word[..1].to_owned(), seen)
    };
    text.split_whitespace().map(one).collect()
}

#[test]
fn a_node_with_the_last_good_copy_is_not_drained() {
    let set = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<String>>();
    let whole = volume("whole", "a b", "c", "a b", "a");
    let half = volume("half", "a b", "c", "b", "b");
    let idle = volume("idle", "a b", "c", "b", "");
    let three = volume("three", "a b c", "", "a b c", "a");
    let mut table = String::new();
    for (what, volumes, nodes, lost) in [
        ("nobody is cordoned", vec![&whole], "a b c d", ""),
        ("all are, one may leave", vec![&whole], "a+ b+ c+ d+", ""),
        ("one in sync", vec![&half], "a+ b c d", ""),
        ("the one in sync is cordoned", vec![&half], "a b+ c d", ""),
        ("nobody writes", vec![&idle], "a+ b+ c d", ""),
        ("one may leave", vec![&whole], "a+o b+ c d", ""),
        ("its turn is over, nobody waits", vec![&whole], "a+ot b c d", ""),
        ("its turn is over", vec![&whole], "a+ot b+ c d", ""),
        ("its turn was, and is the other's", vec![&whole], "a+t b+ c d", ""),
        ("one has left", vec![&whole], "a+- b+ c+ d+", ""),
        ("it is uncordoned before its guard is back", vec![&whole], "a-o b+ c d", ""),
        ("two may leave what is used since", vec![&whole], "a+o b+o c d", ""),
        ("b is lost", vec![&whole], "a+ b c+ d+", "b"),
        ("the tie-breaker is lost", vec![&whole], "a+ b+ c d", "c"),
        ("three replicas", vec![&three], "a+ b+ c+ d", ""),
        ("two volumes", vec![&whole, &half], "a b+ c d", ""),
        ("another node is lost", vec![&whole], "a b+ c d", "d"),
    ] {
        writeln!(table, "{what}: {nodes}").expect("text");
        for (node, guard) in plan_guards(&seen(nodes), &volumes, &set(lost)) {
            match guard {
                Guard::Open => writeln!(table, "  {node}: open"),
                Guard::Closed { reason } => writeln!(table, "  {node}: closed, {reason}"),
            }
            .expect("text");
        }
    }
    insta::assert_snapshot!(table);
}

proptest! {
    /// Whatever happens in whatever order, of the nodes that share a volume in use at most one may leave or has left.
    #[test]
    fn two_that_share_a_volume_never_leave_together(steps in collection::vec((0_usize..4, 0_usize..4), 1..200)) {
        let volumes = [volume("v", "a b", "c", "a b", "a"), volume("w", "b d", "c", "b d", "d")];
        let volumes: Vec<&MirrorVolume> = volumes.iter().collect();
        let mut nodes = seen("a b c d");
        for (at, what) in steps {
            let node = ["a", "b", "c", "d"][at];
            let one = nodes.get_mut(node).expect("a node");
            match what {
                0 => one.wanted = !one.wanted,
                1 if one.open => one.guarded = false,
                2 => one.turn = one.turn.map(|turn| turn + TURN),
                _ => {
                    for (node, guard) in plan_guards(&nodes, &volumes, &BTreeSet::new()) {
                        let one = nodes.get_mut(&node).expect("a node");
                        let open = guard == Guard::Open;
                        if open && !one.open {
                            one.turn = Some(Duration::ZERO);
                        }
                        one.open = open;
                        one.guarded |= !one.wanted;
                    }
                }
            }
            for together in [["a", "b", "c"], ["b", "c", "d"]] {
                let gone = together.iter().filter(|node| nodes[**node].is_away());
                prop_assert!(gone.count() <= 1, "{nodes:?}");
            }
        }
    }
}
