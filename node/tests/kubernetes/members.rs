//! Members change while the volume is in use: the lost are replaced, and what is new holds all that was written.

use anyhow::{Context as _, Result, ensure};
use lockstep_api::{DiskState, LOST, Phase, ReplicaRole, is_true};

use crate::cluster::{TestCluster, check_device, write_device};

use ReplicaRole::{Replica, TieBreaker};

const SIZE: i64 = 32 << 20;
const ON: [&str; 3] = ["a", "b", "c"];

fn wait_filled(cluster: &TestCluster, node: &str) -> Result<()> {
    let status = cluster.wait_status(("v", node), "filled", |status| {
        status.phase == Phase::Ready && is_true(&status.conditions, "InSync")
    })?;
    ensure!(status.disk == Some(DiskState::UpToDate), "{status:?}");
    Ok(())
}

#[test]
fn a_replica_lost_for_good_is_replaced_and_the_pod_fails_over_to_the_new_one() -> Result<()> {
    let cluster = TestCluster::start(&["a", "b", "c", "d"])?;
    cluster.create("v", SIZE, &ON)?;
    cluster.wait_created("v", &ON)?;
    cluster.stage("v", "a")?;
    let device = cluster.node("a")?.device("v");
    write_device(&device, 1)?;
    cluster.node("b")?.kill()?;
    write_device(&device, 2)?;

    cluster.place("v", &[("a", Replica), ("b", Replica), ("c", TieBreaker), ("d", Replica)])?;
    wait_filled(&cluster, "d")?;
    cluster.place("v", &[("a", Replica), ("c", TieBreaker), ("d", Replica)])?;
    cluster.wait_members("v", "a", &["a", "d"], "c")?;
    write_device(&device, 3)?;

    // The new one and the tie-breaker are all that is left.
    cluster.node("a")?.kill()?;
    cluster.stage("v", "d")?;
    check_device(&cluster.node("d")?.device("v"), 3)?;
    write_device(&cluster.node("d")?.device("v"), 4)?;

    // What was replaced comes back, and is nobody any more.
    cluster.node("b")?.start()?;
    cluster.wait_gone("v", "b")?;
    cluster.node("b")?.ensure_empty_pool()?;
    cluster.unstage("v", "d")
}

#[test]
fn a_node_that_comes_back_with_an_empty_disk_is_filled_anew() -> Result<()> {
    let cluster = TestCluster::start(&ON)?;
    cluster.create("v", SIZE, &ON)?;
    cluster.wait_created("v", &ON)?;
    cluster.stage("v", "a")?;
    let device = cluster.node("a")?.device("v");
    write_device(&device, 5)?;
    let b = cluster.node("b")?;
    b.kill()?;
    std::fs::remove_dir_all(b.pool()).context("lose the disk")?;
    b.start()?;
    cluster.wait_status(("v", "b"), "lost", |status| is_true(&status.conditions, LOST))?;
    write_device(&device, 6)?;

    let on = [("a", Replica), ("b", Replica), ("c", TieBreaker)];
    cluster.place("v", &on)?;
    cluster.delete_part("v", "b")?;
    cluster.wait_gone("v", "b")?;
    cluster.place("v", &on)?;
    wait_filled(&cluster, "b")?;
    cluster.wait_members("v", "a", &["a", "b"], "c")?;

    cluster.node("a")?.kill()?;
    cluster.stage("v", "b")?;
    check_device(&cluster.node("b")?.device("v"), 6)?;
    cluster.unstage("v", "b")
}

#[test]
fn nodes_exchange_what_they_do_and_whoever_attaches_follows() -> Result<()> {
    let cluster = TestCluster::start(&["a", "b", "c", "d"])?;
    cluster.create("v", SIZE, &ON)?;
    cluster.wait_created("v", &ON)?;
    cluster.stage("v", "b")?;
    write_device(&cluster.node("b")?.device("v"), 7)?;
    cluster.unstage("v", "b")?;

    // The tie-breaker gets a replica, and one of the first ones becomes the tie-breaker: each keeps its vote.
    cluster.place("v", &[("a", Replica), ("b", Replica), ("c", Replica)])?;
    wait_filled(&cluster, "c")?;
    cluster.place("v", &[("a", TieBreaker), ("b", Replica), ("c", Replica)])?;
    cluster.wait_members("v", "b", &["b", "c"], "a")?;
    cluster.wait_status(("v", "a"), "without data", |status| status.disk == Some(DiskState::Diskless))?;
    // The other one is moved off its node, and the tie-breaker too: none of the first members is left.
    cluster.place("v", &[("a", TieBreaker), ("b", Replica), ("c", Replica), ("d", Replica)])?;
    wait_filled(&cluster, "d")?;
    cluster.place("v", &[("a", TieBreaker), ("c", Replica), ("d", Replica)])?;
    cluster.wait_members("v", "c", &["c", "d"], "a")?;
    cluster.wait_gone("v", "b")?;
    cluster.place("v", &[("b", TieBreaker), ("c", Replica), ("d", Replica)])?;
    cluster.wait_members("v", "c", &["c", "d"], "b")?;
    cluster.wait_gone("v", "a")?;
    cluster.node("a")?.ensure_empty_pool()?;

    cluster.stage("v", "a")?;
    check_device(&cluster.node("a")?.device("v"), 7)?;
    write_device(&cluster.node("a")?.device("v"), 8)?;
    cluster.unstage("v", "a")?;
    cluster.wait_gone("v", "a")?;
    cluster.stage("v", "d")?;
    check_device(&cluster.node("d")?.device("v"), 8)?;
    cluster.unstage("v", "d")
}
