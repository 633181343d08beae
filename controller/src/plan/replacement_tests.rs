use std::collections::BTreeSet;
use std::fmt::Write as _;

use lockstep_api::MirrorVolume;
use serde_json::json;

use super::{Change, Seen, plan_change};
use crate::plan::Pool;

const GIB: u64 = 1 << 30;

fn pools(names: &str) -> Vec<Pool> {
    let pool = |(node, number): (&str, u32)| Pool {
        node: node.to_owned(),
        node_id: number,
        incarnation: 100,
        labels: Default::default(),
        zone: None,
        engine: true,
        storage: true,
        cordoned: false,
        evict: false,
        capacity: 100 * GIB,
        free: 100 * GIB,
        reserved: 0,
        votes: 0,
    };
    names.split_whitespace().zip(1..).map(pool).collect()
}

fn volume(replicas: u8, on: &str, tie_breaker: &str, in_sync: &str) -> MirrorVolume {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let placed = |nodes: &str, role: &str| {
        let place = |node: String| json!({ "node": node, "nodeId": 1, "incarnation": 1, "role": role });
        words(nodes).into_iter().map(place).collect::<Vec<_>>()
    };
    let placement = [placed(on, "Replica"), placed(tie_breaker.trim_matches('-'), "TieBreaker")].concat();
    serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1",
        "kind": "MirrorVolume",
        "metadata": { "name": "v" },
        "spec": { "sizeBytes": GIB, "replicas": replicas },
        "status": {
            "arbiter": if tie_breaker == "-" { "Lease" } else { "Peers" },
            "placement": placement,
            "inSync": words(in_sync),
            "writers": ["a"],
        },
    }))
    .expect("a volume")
}

#[test]
fn members_are_changed_one_at_a_time() {
    let evicted = |names: &str, node: &str| {
        let mut all = pools(names);
        all.iter_mut().for_each(|pool| pool.evict |= node.split_whitespace().any(|it| it == pool.node));
        all
    };
    let room = |names: &str, node: &str| {
        let mut all = pools(names);
        all.iter_mut().filter(|pool| pool.node != node).for_each(|pool| pool.free = 0);
        all
    };
    // Nodes with a mark: -lost, or alive and their replica is !gone from the pool, or its disk has ?failed.
    let cases: Vec<(&str, MirrorVolume, Vec<Pool>, &str)> = vec![
        ("all is well", volume(2, "a b", "c", "a b"), pools("a b c d"), ""),
        ("b is lost for long", volume(2, "a b", "c", "a"), pools("a b c d"), "-b"),
        ("b is lost, and only the tie-breaker's node is left", volume(2, "a b", "c", "a"), pools("a b c"), "-b"),
        ("b is lost, and the tie-breaker's node has no room", volume(2, "a b", "c", "a"), room("a b c", "a"), "-b"),
        ("b is lost, and the tie-breaker too", volume(2, "a b", "c", "a"), pools("a b c"), "-b -c"),
        ("b is lost, c was promoted and is in sync", volume(2, "a b c", "", "a c"), pools("a b c"), "-b"),
        ("and there is another node", volume(2, "a b c", "", "a c"), pools("a b c d"), "-b"),
        ("b is back, and is filled", volume(2, "a b c", "", "a c"), pools("a b c"), ""),
        ("b is lost, d is being filled", volume(2, "a b d", "c", "a"), pools("a b c d e"), "-b"),
        ("b is lost, d is in sync", volume(2, "a b d", "c", "a d"), pools("a b c d"), "-b"),
        (
            "b is lost, and so is d, which was to take its place",
            volume(2, "a b d", "c", "a"),
            pools("a b c d e"),
            "-b -d",
        ),
        ("b is there, and its replica is gone", volume(2, "a b", "c", "a b"), pools("a b c d"), "!b"),
        ("its pool has to be emptied besides", volume(2, "a b", "c", "a"), evicted("a b c d", "b"), "!b"),
        ("b's disk has failed", volume(2, "a b", "c", "a"), pools("a b c d"), "?b"),
        ("b's disk has failed, and nobody else has the data", volume(2, "a b", "c", ""), pools("a b c"), "?b"),
        ("nobody else has the data", volume(2, "a b", "c", "b"), pools("a b c"), "!b"),
        ("b's pool is evicted", volume(2, "a b", "c", "a b"), evicted("a b c d", "b"), ""),
        ("b's pool is evicted, d is in sync", volume(2, "a b d", "c", "a b d"), evicted("a b c d", "b"), ""),
        ("b's pool is evicted, d is lost", volume(2, "a b d", "c", "a b"), evicted("a b c d", "b"), "-d"),
        ("b's pool is evicted, c was promoted", volume(2, "a b c", "", "a b c"), evicted("a b c", "b"), ""),
        ("two pools are evicted, d is in sync", volume(2, "a b d", "c", "a b d"), evicted("a b c d e", "a b"), ""),
        ("a third is wanted", volume(3, "a b", "c", "a b"), pools("a b c d"), ""),
        (
            "a third is wanted, and only the tie-breaker's node is left",
            volume(3, "a b", "c", "a b"),
            pools("a b c"),
            "",
        ),
        ("a third is there", volume(3, "a b d", "c", "a b d"), pools("a b c d"), ""),
        ("a third is not wanted any more", volume(2, "a b c", "", "a b c"), pools("a b c d"), ""),
        ("the one that is not in sync goes first", volume(2, "a b c", "", "a c"), pools("a b c d"), ""),
        ("ties are to be broken", volume(2, "a b", "", "a b"), pools("a b c d"), ""),
        ("the tie-breaker is lost", volume(2, "a b", "c", "a b"), pools("a b c d"), "-c"),
        ("the tie-breaker is lost, and there is no other", volume(2, "a b", "c", "a b"), pools("a b c"), "-c"),
        ("a Lease decides, b is lost", volume(2, "a b", "-", "a"), pools("a b c"), "-b"),
        ("a Lease decides, b is lost, c is in sync", volume(2, "a b c", "-", "a c"), pools("a b c"), "-b"),
        ("a Lease decides, and there is no other node", volume(2, "a b", "-", "a"), pools("a b"), "-b"),
    ];
    let mut table = String::new();
    for (what, volume, pools, marks) in cases {
        let marked = |mark: &str| -> BTreeSet<String> {
            marks.split_whitespace().filter_map(|it| it.strip_prefix(mark)).map(str::to_owned).collect()
        };
        let (lost, emptied, failed) = (marked("-"), marked("!"), marked("?"));
        let (lost_for_long, emptied, failed) = (&lost, &emptied, &failed);
        let seen = Seen { volume: &volume, pools: &pools, lost_for_long, emptied, failed, overcommit: 1.0 };
        let change = match plan_change(seen) {
            None => "nothing".to_owned(),
            Some(Change::Add(placed)) => format!("add {:?} on {}", placed.role, placed.node),
            Some(Change::Remove { node }) => format!("remove {node}"),
            Some(Change::Become { node, role }) => format!("{node} becomes {role:?}"),
            Some(Change::Succeed { node, by }) => format!("{} takes the place of {node}", by.node),
            Some(Change::Remake(placed)) => format!("make it anew on {}", placed.node),
        };
        writeln!(table, "{what}: {change}").expect("text");
    }
    insta::assert_snapshot!(table);
}
