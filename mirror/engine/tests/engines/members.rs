//! Replicas of a volume that is in use are lost, replaced, moved and made more: on real engines, files and sockets.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cluster::{Cluster, await_state};
use lockstep_engine::core::{BlockRange, Command, CommandError, Config, DiskState, NodeId, Op, Reply, Role};
use lockstep_engine::{decode_configuration, encode_configuration};

const BLOCKS: u64 = 4096;

/// The configuration as one node sends it to another.
fn configuration(cluster: &Cluster, of: u32) -> Config {
    decode_configuration(&encode_configuration(&cluster.status(of, "v").core.config)).unwrap()
}

fn add(node: u32, role: Role, instead_of: Option<u32>) -> Command {
    Command::AddMember { node: NodeId(node), role, instead_of: instead_of.map(NodeId) }
}

fn remove(node: u32) -> Command {
    Command::RemoveMember { node: NodeId(node) }
}

/// Gives a node an empty replica and makes it one of the volume's, by way of node `by`; waits until it is in sync.
fn add_replica(cluster: &Cluster, by: u32, node: u32, instead_of: Option<u32>) {
    cluster.engines[&node].give_part("v", configuration(cluster, by), true).unwrap();
    assert_eq!(cluster.command(by, "v", add(node, Role::Replica, instead_of)), Ok(Reply::Done));
    cluster.await_status(node, "v", |status| status.core.disk == DiskState::UpToDate);
}

fn voters(config: &Config) -> Vec<u32> {
    config.voters.keys().map(|node| node.0).collect()
}

#[test]
fn a_replica_that_is_lost_for_good_is_replaced_on_a_fourth_node_under_load() {
    let mut cluster = Cluster::start_with("lost", 4);
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    (0..BLOCKS / 2).step_by(3).for_each(|block| cluster.write(1, "v", block, 1));
    cluster.crash_node(2);
    std::fs::remove_dir_all(cluster.node_dir(2)).unwrap();
    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // What each block was written with last is known: nobody else writes.
        let writer = scope.spawn(|| {
            let mut last = vec![0u8; BLOCKS as usize];
            let mut at = 0u64;
            while !over.load(Ordering::Relaxed) {
                at += 1;
                let (block, byte) = (at * 7 % BLOCKS, (at % 250) as u8 + 2);
                cluster.write(1, "v", block, byte);
                last[block as usize] = byte;
                written.store(at, Ordering::Relaxed);
            }
            last
        });
        add_replica(&cluster, 1, 4, None);
        assert_eq!(cluster.command(1, "v", remove(2)), Ok(Reply::Done));
        let so_far = written.load(Ordering::Relaxed);
        await_state(|| (written.load(Ordering::Relaxed) > so_far + 100).then_some(())).unwrap();
        over.store(true, Ordering::Relaxed);
        let last = writer.join().unwrap();
        for (block, byte) in (0..).zip(last).filter(|(_, byte)| *byte != 0) {
            assert_eq!(cluster.read(1, "v", BlockRange::new(block, block + 1)), [byte; 4096], "block {block}");
        }
    });
    let config = configuration(&cluster, 1);
    assert_eq!(config.in_sync.keys().copied().collect::<Vec<_>>(), [NodeId(1), NodeId(4)]);
    cluster.await_status(1, "v", |status| voters(&status.core.config) == [1, 3, 4]);
    assert_eq!(cluster.data(1, "v"), cluster.data(4, "v"));
    // The new one is as good as the old one was.
    cluster.crash_node(1);
    cluster.attach(4, "v", true).unwrap();
    cluster.write(4, "v", 0, 9);
}

#[test]
fn a_removed_replica_that_comes_back_does_not_count_until_it_is_made_anew() {
    let mut cluster = Cluster::start_with("removed", 4);
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    (0..100).for_each(|block| cluster.write(1, "v", block, 1));
    cluster.crash_node(2);
    add_replica(&cluster, 1, 4, None);
    assert_eq!(cluster.command(1, "v", remove(2)), Ok(Reply::Done));
    (0..100).for_each(|block| cluster.write(1, "v", block, 2));
    cluster.start_node(2);
    cluster.await_status(2, "v", |status| status.core.disk == DiskState::Removed);
    // It is on record again, and it is the old files that are there.
    assert_eq!(cluster.command(1, "v", add(2, Role::Replica, None)), Ok(Reply::Done));
    let known = cluster.status(1, "v").core.config.epoch;
    cluster.await_status(2, "v", |status| status.core.config.epoch >= known);
    let status = cluster.status(2, "v");
    assert_eq!(status.core.disk, DiskState::Removed);
    assert!(!status.core.config.in_sync.contains_key(&NodeId(2)) && status.core.config.joining.is_empty());
    cluster.engines[&2].give_part("v", configuration(&cluster, 1), true).unwrap();
    cluster.await_status(2, "v", |status| status.core.disk == DiskState::UpToDate);
    cluster.request(1, "v", Op::Flush, BlockRange::default(), Vec::new()).unwrap();
    assert_eq!(cluster.data(1, "v"), cluster.data(2, "v"));
    assert!(cluster.data(2, "v")[..100 * 4096].iter().all(|byte| *byte == 2));
}

#[test]
fn a_tie_breaker_becomes_the_third_replica_keeps_its_vote_and_goes_back() {
    let cluster = Cluster::start_with("promoted", 3);
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    (0..64).for_each(|block| cluster.write(1, "v", block, 5));
    let vote = configuration(&cluster, 1).voters[&NodeId(3)];
    add_replica(&cluster, 1, 3, None);
    let config = configuration(&cluster, 1);
    assert_eq!((config.replicas.len(), config.tie_breaker), (3, None));
    assert_eq!(config.voters[&NodeId(3)], vote, "its memory was kept");
    assert_eq!(cluster.data(1, "v"), cluster.data(3, "v"));
    // Asking for what is so already changes nothing.
    cluster.engines[&3].give_part("v", config.clone(), true).unwrap();
    assert_eq!(cluster.command(2, "v", add(3, Role::Replica, None)), Ok(Reply::Done));
    assert_eq!(configuration(&cluster, 1).epoch, config.epoch);

    assert_eq!(cluster.command(1, "v", add(3, Role::TieBreaker, None)), Ok(Reply::Done));
    cluster.await_status(3, "v", |status| status.core.disk == DiskState::Removed);
    cluster.engines[&3].give_part("v", configuration(&cluster, 1), false).unwrap();
    cluster.await_status(3, "v", |status| status.core.disk == DiskState::Diskless);
    assert!(!cluster.node_dir(3).join("pool").join("v").exists());
    let config = configuration(&cluster, 1);
    assert_eq!((config.replicas.len(), config.tie_breaker, config.voters[&NodeId(3)]), (2, Some(NodeId(3)), vote));
}

#[test]
fn what_is_needed_is_not_removed_and_who_does_not_answer_is_not_added() {
    let mut cluster = Cluster::start_with("refused-members", 4);
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    let forbidden = |result: Result<Reply, CommandError>| match result {
        Err(CommandError::Forbidden { reason }) => reason,
        other => panic!("{other:?}"),
    };
    // Node 4 knows nothing of the volume.
    assert_eq!(cluster.command(1, "v", add(4, Role::Replica, None)), Err(CommandError::Silent { node: NodeId(4) }),);
    assert!(forbidden(cluster.command(3, "v", remove(2))).contains("not in sync"));
    assert!(forbidden(cluster.command(1, "v", remove(1))).contains("by another in-sync member"));
    cluster.crash_node(2);
    cluster.write(1, "v", 0, 1);
    assert!(forbidden(cluster.command(1, "v", remove(1))).contains("last replica"));
}

#[test]
fn a_part_whose_making_was_interrupted_is_made_again_and_no_promise_is_lost() {
    let mut cluster = Cluster::start_with("interrupted", 3);
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    // The engine ended when the replica was whole, and before the memory beside which it was made was taken away.
    cluster.crash_node(3);
    let (memory, pool) = (cluster.node_dir(3).join("state/memory/v"), cluster.node_dir(3).join("pool/v"));
    std::fs::create_dir(&pool).unwrap();
    for file in ["area.0", "area.1", "superblock"] {
        std::fs::copy(memory.join(file), pool.join(file)).unwrap();
    }
    cluster.start_node(3);
    cluster.await_status(3, "v", |status| status.core.disk == DiskState::Diskless);
    assert!(memory.exists() && !pool.exists());
    add_replica(&cluster, 1, 3, None);
    assert!(!memory.exists() && pool.exists());
}

#[test]
fn a_tie_breaker_that_was_replaced_learns_it_although_nobody_calls_it() {
    let mut cluster = Cluster::start_with("replaced-voter", 4);
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    cluster.crash_node(3);
    cluster.engines[&4].give_part("v", configuration(&cluster, 1), false).unwrap();
    assert_eq!(cluster.command(2, "v", add(4, Role::TieBreaker, None)), Ok(Reply::Done));
    assert_eq!(voters(&configuration(&cluster, 2)), [1, 2, 4], "one vote for another, in one swap");
    // It waits to be called by lower numbers, which have no reason to call it any more.
    cluster.start_node(3);
    cluster.await_status(3, "v", |status| status.core.config.tie_breaker == Some(NodeId(4)));
    // The new one is as good as the old one was: the configuration changes without node 2.
    cluster.crash_node(2);
    cluster.write(1, "v", 0, 1);
}

#[test]
fn a_fourth_replica_comes_before_one_of_three_goes() {
    let cluster = Cluster::start_with("fourth", 4);
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    (0..64).for_each(|block| cluster.write(1, "v", block, 5));
    add_replica(&cluster, 1, 3, None);
    add_replica(&cluster, 2, 4, None);
    (32..96).for_each(|block| cluster.write(1, "v", block, 6));
    cluster.request(1, "v", Op::Flush, BlockRange::default(), Vec::new()).unwrap();
    let all = [1, 2, 3, 4].map(|node| cluster.data(node, "v"));
    assert!(all.iter().all(|data| *data == all[0]), "a write is on all four");
    assert_eq!(cluster.command(1, "v", remove(2)), Ok(Reply::Done));
    (64..128).for_each(|block| cluster.write(1, "v", block, 7));
    cluster.await_status(1, "v", |status| voters(&status.core.config) == [1, 3, 4]);
    assert_eq!(cluster.data(1, "v"), cluster.data(4, "v"));
    assert_ne!(cluster.data(1, "v"), cluster.data(2, "v"));
}
