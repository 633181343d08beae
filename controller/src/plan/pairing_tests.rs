use std::collections::BTreeMap;
use std::fmt::Write as _;

use lockstep_api::{Arbiter, Policing, ReplicaRole};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Just;

use super::{Members, Want, plan_members};
use crate::plan::Pool;
use crate::plan::capacity::{ROUND_BYTES, plan_room};

const GIB: u64 = 1 << 30;

fn pool(name: &str, number: u32) -> Pool {
    Pool {
        node: name.to_owned(),
        node_id: number,
        incarnation: 100 + u64::from(number),
        labels: BTreeMap::new(),
        zone: None,
        engine: true,
        storage: true,
        cordoned: false,
        evict: false,
        capacity: 101 * GIB,
        free: 101 * GIB,
        reserved: 0,
        votes: 0,
    }
}

fn zoned(name: &str, number: u32, zone: &str) -> Pool {
    Pool { zone: Some(zone.to_owned()), ..pool(name, number) }
}

fn want() -> Want {
    Want {
        size: GIB,
        replicas: 2,
        arbiter: None,
        policing: Policing::Peer,
        selector: BTreeMap::new(),
        preferred: Vec::new(),
        allowed: Vec::new(),
    }
}

fn names(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn show(planned: &Result<Members, super::NoRoom>) -> String {
    match planned {
        Err(no_room) => format!("no room: {no_room}"),
        Ok(members) => {
            let of = |role| {
                let of: Vec<&str> = members.placement.iter().filter(|it| it.role == role).map(|it| &*it.node).collect();
                of.join(" ")
            };
            let (replicas, tie_breaker) = (of(ReplicaRole::Replica), of(ReplicaRole::TieBreaker));
            format!(
                "{replicas}, tie-breaker {}, {:?}",
                if tie_breaker.is_empty() { "-" } else { &tie_breaker },
                members.arbiter
            )
        }
    }
}

#[test]
fn members_are_chosen_as_the_table_says() {
    let three = || vec![pool("a", 1), pool("b", 2), pool("c", 3)];
    let change = |at: usize, change: fn(&mut Pool)| {
        let mut pools = three();
        change(&mut pools[at]);
        pools
    };
    let nvme: BTreeMap<String, String> = [("disk".to_owned(), "nvme".to_owned())].into();
    let labelled = |pool: Pool| Pool { labels: nvme.clone(), ..pool };
    let zones = vec![zoned("a", 1, "x"), zoned("b", 2, "x"), zoned("c", 3, "y"), zoned("d", 4, "z")];
    let cases: Vec<(&str, Want, Vec<Pool>)> = vec![
        ("three alike", want(), three()),
        ("first consumer on c", Want { preferred: names("c"), ..want() }, three()),
        ("two nodes: a Lease", want(), three()[..2].to_vec()),
        ("two nodes, peers wanted", Want { arbiter: Some(Arbiter::Peers), ..want() }, three()[..2].to_vec()),
        ("a Lease wanted", Want { arbiter: Some(Arbiter::Lease), ..want() }, three()),
        ("Leases police", Want { policing: Policing::Lease, ..want() }, three()),
        ("three replicas", Want { replicas: 3, ..want() }, three()),
        ("three replicas on two nodes", Want { replicas: 3, ..want() }, three()[..2].to_vec()),
        ("one node", want(), three()[..1].to_vec()),
        ("no node", want(), vec![]),
        ("a is promised most", want(), change(0, |a| a.reserved = 50 * GIB)),
        (
            "a is promised most, and wanted",
            Want { preferred: names("a"), ..want() },
            change(0, |a| a.reserved = 50 * GIB),
        ),
        ("a is promised all", Want { preferred: names("a"), ..want() }, change(0, |a| a.reserved = 101 * GIB)),
        ("a's disk is full of others'", Want { preferred: names("a"), ..want() }, change(0, |a| a.free = GIB / 2)),
        ("b is cordoned", want(), change(1, |b| b.cordoned = true)),
        ("b is evicted", want(), change(1, |b| b.evict = true)),
        ("b has no pool, and votes", want(), change(1, |b| b.storage = false)),
        ("b's engine is down: two engines", want(), change(1, |b| b.engine = false)),
        ("b has a's number", want(), change(1, |b| b.node_id = 1)),
        ("zones are spread", Want { preferred: names("a"), ..want() }, zones.clone()),
        ("three zones", Want { replicas: 3, preferred: names("b"), ..want() }, zones.clone()),
        ("allowed: b c", Want { allowed: names("b c"), ..want() }, three()),
        ("allowed: b", Want { allowed: names("b"), ..want() }, three()),
        (
            "labels",
            Want { selector: nvme.clone(), ..want() },
            vec![pool("a", 1), labelled(pool("b", 2)), labelled(pool("c", 3))],
        ),
        ("labels of one only", Want { selector: nvme.clone(), ..want() }, vec![pool("a", 1), labelled(pool("b", 2))]),
        (
            "the one that votes least votes",
            Want { allowed: names("a b"), ..want() },
            vec![pool("a", 1), pool("b", 2), Pool { votes: 2, ..pool("c", 3) }, Pool { votes: 1, ..pool("d", 4) }],
        ),
    ];
    let mut table = String::new();
    for (what, want, pools) in cases {
        writeln!(table, "{what}: {}", show(&plan_members(&want, &pools, 1.0))).expect("text");
    }
    insta::assert_snapshot!(table);
}

fn any_pool() -> impl Strategy<Value = Pool> {
    let zone = prop_oneof![Just(None), (0..3_u8).prop_map(|zone| Some(format!("z{zone}")))];
    ((any::<bool>(), any::<bool>(), 0..10_u8), zone, 0..200_u64, 0..200_u64, 0..200_u64).prop_map(
        |((engine, storage, cordoned), zone, capacity, free, reserved)| Pool {
            zone,
            engine: engine || storage,
            storage,
            cordoned: cordoned == 0,
            capacity: capacity * GIB,
            free: free.min(capacity) * GIB,
            reserved: reserved * GIB,
            ..pool("", 1)
        },
    )
}

fn any_pools() -> impl Strategy<Value = Vec<Pool>> {
    vec(any_pool(), 0..8).prop_map(|pools| {
        let numbered = pools.into_iter().zip(1..);
        numbered.map(|(pool, number)| Pool { node: format!("n{number}"), node_id: number, ..pool }).collect()
    })
}

proptest! {
    /// What is planned is possible, and what is possible is planned: exactly where enough pools have room.
    #[test]
    fn a_plan_keeps_all_promises(
        pools in any_pools(), size in 1..100_u64, replicas in 2..4_usize, over in 5..30_u32, preferred in 0..9_u32,
    ) {
        let want = Want { size: size * GIB, replicas, preferred: vec![format!("n{preferred}")], ..want() };
        let overcommit = f64::from(over) / 10.0;
        let fitting: Vec<&Pool> = pools.iter().filter(|pool| pool.available(overcommit) >= want.size).collect();
        match plan_members(&want, &pools, overcommit) {
            Err(_) => prop_assert!(fitting.len() < replicas),
            Ok(Members { placement, arbiter }) => {
                let placed: Vec<_> = placement.iter().filter(|it| it.role == ReplicaRole::Replica).collect();
                prop_assert_eq!(placed.len(), replicas);
                prop_assert!(placed.iter().all(|it| fitting.iter().any(|pool| pool.node == it.node)));
                let mut nodes: Vec<&String> = placement.iter().map(|it| &it.node).collect();
                nodes.sort();
                nodes.dedup();
                prop_assert_eq!(nodes.len(), placement.len(), "one part a node");
                prop_assert!(placement.iter().all(|it| pools.iter().any(|p| p.engine && p.node == it.node)));
                let voters = if arbiter == Arbiter::Peers { placement.len() } else { 0 };
                prop_assert!(voters == 0 || voters == 3, "never two voters");
                let first = fitting.iter().any(|pool| pool.node == want.preferred[0]);
                prop_assert!(!first || placed[0].node == want.preferred[0], "the first consumer's comes first");
            }
        }
    }

    /// Capacity that was reported can be had, and a byte more than the largest cannot.
    #[test]
    fn the_largest_volume_can_be_made_and_none_larger(pools in any_pools(), replicas in 2..4_usize) {
        let all: Vec<&Pool> = pools.iter().collect();
        let room = plan_room(&all, replicas, None, 1.0);
        let can = |size| plan_members(&Want { size, replicas, ..want() }, &pools, 1.0).is_ok();
        prop_assert!(room.largest == 0 || can(room.largest));
        prop_assert!(!can(room.largest + 1));
        prop_assert_eq!(room.rounded().largest % ROUND_BYTES, 0);
        prop_assert!(room.rounded().largest <= room.largest && room.largest <= room.total.max(room.largest));
        for pool in &pools {
            let own = plan_room(&all, replicas, Some(&pool.node), 1.0);
            prop_assert!(own.largest <= room.largest);
            prop_assert!(!pool.storage || own.largest <= pool.available(1.0), "its first consumer's is local");
        }
    }

    /// All new volumes together fit: many of the smallest size, one after the other, each planned with those before it in view.
    #[test]
    fn total_room_is_what_many_small_volumes_take(pools in any_pools(), replicas in 2..4_usize) {
        let all: Vec<&Pool> = pools.iter().collect();
        let total = plan_room(&all, replicas, None, 1.0).total;
        let sum: u64 = pools.iter().map(|pool| pool.available(1.0)).sum();
        prop_assert!(total * (replicas as u64) <= sum);
    }
}
