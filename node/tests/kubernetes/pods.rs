//! A pod that is to end while its volume waits for a quorum ends all the same, and what it was told is safe stays.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_processes::command::wait_bounded;
use lockstep_processes::wait;

use crate::cluster::{TestCluster, check_device, write_device};
use crate::node::BOUND;

const SIZE: i64 = 32 << 20;
const ON: [&str; 3] = ["a", "b", "c"];

/// Long enough that a process which can go on has gone on.
const A_WHILE: Duration = Duration::from_secs(3);

#[test]
fn a_pod_that_is_deleted_without_a_quorum_ends_within_a_bound() -> Result<()> {
    let cluster = TestCluster::start(&ON)?;
    cluster.create("v", SIZE, &ON)?;
    cluster.wait_created("v", &ON)?;
    cluster.stage("v", "a")?;
    let pod = cluster.make_pod("p", "a")?;
    let target = cluster.publish("v", "a", &pod)?;
    write_device(&target, 5)?;

    cluster.node("b")?.kill_engine()?;
    cluster.node("c")?.kill_engine()?;
    let mut writer = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "count=1", "seek=4096", "oflag=direct", "conv=notrunc"])
        .arg(format!("of={}", target.display()))
        .stderr(Stdio::null())
        .spawn()
        .context("start a writer")?;
    cluster.wait_status(("v", "a"), "it waits for a quorum", |status| !status.suspended.is_empty())?;
    // As kubelet does: it cannot end it.
    writer.kill()?;
    ensure!(wait_bounded(&mut writer, A_WHILE)?.is_none(), "the writer does not wait for its device");

    cluster.delete_pod("p")?;
    let ended = wait_bounded(&mut writer, BOUND)?.context("the writer waits for ever")?;
    ensure!(!ended.success(), "nobody took what it wrote");
    cluster.unpublish("v", "a", &pod)?;
    wait::until_true("an event tells of it", BOUND, || {
        Ok(cluster.events("v")?.iter().any(|reason| reason == "DeviceFailed"))
    })?;

    cluster.node("b")?.start_engine()?;
    cluster.node("c")?.start_engine()?;
    cluster.unstage("v", "a")?;
    cluster.stage("v", "b")?;
    check_device(&cluster.node("b")?.device("v"), 5)?;
    cluster.unstage("v", "b")
}
