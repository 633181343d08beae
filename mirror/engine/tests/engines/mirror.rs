//! Real engines over loopback: real sockets, files and rings do what the simulated ones do.

use crate::cluster::Cluster;
use lockstep_engine::core::{BlockRange, CommandError, DiskState, NodeId, Op};

const BLOCKS: u64 = 4096;

#[test]
fn a_write_is_on_both_replicas_and_is_read_back() {
    let cluster = Cluster::start("write");
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    for block in 0..64 {
        cluster.write(1, "v", block * 7, block as u8 + 1);
    }
    let large: Vec<u8> = (0..2 << 20).map(|at: u32| (at / 4096) as u8).collect();
    let range = BlockRange::new(1024, 1536);
    cluster.request(1, "v", Op::Write { fua: true }, range, large.clone()).unwrap();
    assert_eq!(cluster.read(1, "v", range), large);
    for block in 0..64 {
        assert_eq!(cluster.read(1, "v", BlockRange::new(block * 7, block * 7 + 1)), [block as u8 + 1; 4096]);
    }
    cluster.request(1, "v", Op::Discard, BlockRange::new(1100, 1200), Vec::new()).unwrap();
    cluster.request(1, "v", Op::WriteZeroes { fua: true }, BlockRange::new(1300, 1310), Vec::new()).unwrap();
    cluster.request(1, "v", Op::Flush, BlockRange::default(), Vec::new()).unwrap();
    assert_eq!(cluster.read(1, "v", BlockRange::new(1150, 1151)), [0; 4096]);
    assert_eq!(cluster.read(1, "v", BlockRange::new(1305, 1306)), [0; 4096]);
    assert_eq!(cluster.data(1, "v"), cluster.data(2, "v"));
    let peer = cluster.status(2, "v");
    assert_eq!(peer.core.counters.front_writes + peer.core.counters.front_reads, 0);
    assert!(peer.core.counters.peer_writes >= 67);
}

#[test]
fn a_second_writer_is_refused_with_the_holders_name() {
    let cluster = Cluster::start("refused");
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    assert_eq!(cluster.attach(2, "v", false), Err(CommandError::AttachedElsewhere { holder: NodeId(1) }));
}

#[test]
fn a_peer_that_crashes_is_left_out_and_comes_back_equal() {
    let mut cluster = Cluster::start("peer");
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    (0..100).for_each(|block| cluster.write(1, "v", block, 1));
    cluster.crash_node(2);
    (50..150).for_each(|block| cluster.write(1, "v", block, 2));
    let alone = cluster.status(1, "v");
    assert_eq!(alone.core.config.in_sync.len(), 1);
    assert!(alone.core.dirty_blocks[&NodeId(2)] >= 100);
    cluster.start_node(2);
    cluster.await_status(2, "v", |status| status.core.disk == DiskState::UpToDate);
    assert_eq!(cluster.data(1, "v"), cluster.data(2, "v"));
}

#[test]
fn a_writer_that_crashes_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start("writer");
    cluster.create("v", BLOCKS);
    cluster.attach(1, "v", false).unwrap();
    (0..100).for_each(|block| cluster.write(1, "v", block, 3));
    cluster.crash_node(1);
    cluster.attach(2, "v", true).unwrap();
    assert!(cluster.read(2, "v", BlockRange::new(0, 100)).iter().all(|byte| *byte == 3));
    (100..120).for_each(|block| cluster.write(2, "v", block, 4));
    cluster.start_node(1);
    cluster.await_status(1, "v", |status| status.core.disk == DiskState::UpToDate);
    assert_eq!(cluster.data(1, "v"), cluster.data(2, "v"));
}
