//! Volumes are made, attached, grown and deleted as the objects say.

use anyhow::{Result, ensure};
use lockstep_api::{Attached, DiskState, Phase, ReplicaRole, is_true};
use lockstep_processes::wait;
use lockstep_proto::node::v1 as proto;
use serde_json::json;

use crate::cluster::{TestCluster, check_device, write_device};
use crate::node::BOUND;

const SIZE: i64 = 32 << 20;

#[test]
fn a_volume_is_made_written_moved_grown_and_deleted() -> Result<()> {
    let (a, b, c) = ("a.example.org", "b.example.org", "c.example.org");
    let cluster = TestCluster::start(&[a, b, c])?;
    let on = [a, b, c];
    cluster.create("v", SIZE, &on)?;
    cluster.wait_created("v", &on)?;
    for node in on {
        ensure!(cluster.health(node, "/readyz")? == 200 && cluster.health(node, "/healthz")? == 200);
    }

    // Who makes and deletes volumes here is not the command line.
    for words in [&["create", "w", "--size", "1MiB"][..], &["delete", "v"]] {
        let refused = cluster.node(a)?.lockstep(words)?;
        ensure!(refused.status.code() == Some(3), "{refused:?}");
    }

    cluster.stage("v", a)?;
    let device = cluster.node(a)?.device("v");
    write_device(&device, 7)?;
    let here = cluster.wait_status(("v", a), "attached", |status| status.attached == Some(Attached::ReadWrite))?;
    ensure!(here.disk == Some(DiskState::UpToDate) && here.seen.size_bytes == SIZE, "{here:?}");
    cluster.wait_status(("v", b), "sees the writer", |status| status.seen.writers == [a])?;

    // Grown while it is attached: once, by its writer, and seen by all.
    for node in on {
        cluster.patch_part("v", node, json!({ "sizeBytes": 2 * SIZE }))?;
    }
    for node in on {
        cluster.wait_status(("v", node), "grown", |status| status.seen.size_bytes == 2 * SIZE)?;
    }

    // Settings too, by one of those in sync.
    for node in on {
        cluster.patch_part("v", node, json!({ "ack": "Durable", "writePriority": "High" }))?;
    }
    for node in on {
        wait::until_true(&format!("{node} goes by what is wanted"), BOUND, || {
            let status = cluster.engine_status("v", node)?;
            Ok((status.ack(), status.priority()) == (proto::Ack::Durable, proto::Priority::High))
        })?;
    }

    // The agent is nobody's business but its own.
    cluster.node(a)?.end_agent()?;
    check_device(&device, 7)?;
    cluster.node(a)?.start_agent()?;
    cluster.stage("v", a)?;
    check_device(&device, 7)?;
    cluster.unstage("v", a)?;
    cluster.wait_status(("v", a), "detached", |status| status.attached.is_none() && status.device.is_none())?;

    // The voter without data can have it attached too.
    cluster.stage("v", c)?;
    check_device(&cluster.node(c)?.device("v"), 7)?;
    cluster.unstage("v", c)?;

    cluster.delete("v")?;
    for node in on {
        cluster.wait_gone("v", node)?;
        cluster.node(node)?.ensure_empty_pool()?;
    }
    Ok(())
}

#[test]
fn a_node_that_comes_later_attaches_what_it_has_no_part_of() -> Result<()> {
    let mut cluster = TestCluster::start(&["a", "b", "c"])?;
    let on = ["a", "b", "c"];
    cluster.create("v", SIZE, &on)?;
    cluster.wait_created("v", &on)?;
    let engines = ["a", "b", "c"].map(|node| cluster.node(node).and_then(|node| node.worker()));
    cluster.stage("v", "a")?;
    write_device(&cluster.node("a")?.device("v"), 9)?;
    cluster.unstage("v", "a")?;

    cluster.add_node("d")?;
    cluster.wait_ready()?;
    cluster.stage("v", "d")?;
    check_device(&cluster.node("d")?.device("v"), 9)?;
    write_device(&cluster.node("d")?.device("v"), 11)?;
    let here = cluster.wait_status(("v", "d"), "attached", |status| status.attached.is_some())?;
    ensure!(here.phase == Phase::Ready && here.disk == Some(DiskState::Diskless), "{here:?}");
    let part = cluster.part("v", "d")?.map(|part| part.spec.role);
    ensure!(part == Some(ReplicaRole::Attachment), "{part:?}");
    cluster.wait_status(("v", "b"), "sees the writer", |status| status.seen.writers == ["d"])?;

    cluster.unstage("v", "d")?;
    cluster.wait_gone("v", "d")?;
    cluster.stage("v", "b")?;
    check_device(&cluster.node("b")?.device("v"), 11)?;
    cluster.unstage("v", "b")?;
    for (node, before) in ["a", "b", "c"].into_iter().zip(engines) {
        ensure!(cluster.node(node)?.worker()? == before?, "the engine of {node} was started anew");
    }
    Ok(())
}

#[test]
fn a_lost_replica_is_told_and_never_made_anew() -> Result<()> {
    let cluster = TestCluster::start(&["a", "b", "c"])?;
    let on = ["a", "b", "c"];
    cluster.create("v", SIZE, &on)?;
    cluster.wait_created("v", &on)?;
    let b = cluster.node("b")?;
    b.kill()?;
    std::fs::remove_dir_all(b.pool())?;
    b.start()?;
    let lost = cluster.wait_status(("v", "b"), "lost", |status| status.phase == Phase::Failed)?;
    ensure!(lost.message.contains("not in the pool"), "{lost:?}");
    ensure!(!is_true(&lost.conditions, "InSync") && lost.disk == Some(DiskState::Failed), "{lost:?}");
    cluster.delete("v")?;
    for node in on {
        cluster.wait_gone("v", node)?;
    }
    wait::until_true("nothing is left", BOUND, || Ok(b.ensure_empty_pool().is_ok()))
}
