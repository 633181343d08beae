//! Nodes, engines and the API server go away and come back.

use anyhow::{Context as _, Result, ensure};
use lockstep_api::{Attached, names};
use lockstep_processes::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{TestCluster, check_device, write_device};
use crate::node::BOUND;

const SIZE: i64 = 32 << 20;
const ON: [&str; 3] = ["a", "b", "c"];

#[test]
fn a_part_of_a_node_that_is_away_is_deleted_when_it_is_back() -> Result<()> {
    let cluster = TestCluster::start(&ON)?;
    cluster.create("v", SIZE, &ON)?;
    cluster.wait_created("v", &ON)?;
    let b = cluster.node("b")?;
    b.kill()?;
    cluster.wait_status(("v", "a"), "misses b", |status| status.unreachable == ["b"])?;
    wait::until_true("an event tells of the loss", BOUND, || {
        Ok(cluster.events("v")?.iter().any(|reason| reason == "ReplicaLost"))
    })?;
    cluster.delete("v")?;
    cluster.wait_gone("v", "a")?;
    cluster.wait_gone("v", "c")?;
    let waiting = cluster.part("v", "b")?.context("it waits for its node")?;
    ensure!(waiting.metadata.finalizers.iter().flatten().any(|it| it == names::FINALIZER_REPLICA), "{waiting:?}");
    // A volume of the same name meanwhile is another one, and has to wait for the name there.
    b.start()?;
    cluster.wait_gone("v", "b")?;
    for node in &cluster.nodes {
        node.ensure_empty_pool()?;
    }
    Ok(())
}

#[test]
fn everything_goes_on_while_the_api_server_is_away() -> Result<()> {
    let cluster = TestCluster::start(&ON)?;
    cluster.create("v", SIZE, &ON)?;
    cluster.wait_created("v", &ON)?;
    cluster.stage("v", "a")?;
    let a = cluster.node("a")?;
    let device = a.device("v");
    write_device(&device, 1)?;

    cluster.server.pause()?;
    write_device(&device, 2)?;
    cluster.node("b")?.kill()?;
    write_device(&device, 3)?;
    // The agent finds its way without the API server: what is attached can be detached and attached again.
    a.kill_agent()?;
    check_device(&device, 3)?;
    a.start_agent()?;
    cluster.unstage("v", "a")?;
    cluster.stage("v", "a")?;
    check_device(&device, 3)?;
    cluster.server.resume()?;

    // What changed meanwhile is told now.
    let told = cluster.wait_status(("v", "a"), "misses b", |status| status.unreachable == ["b"])?;
    ensure!(told.attached == Some(Attached::ReadWrite), "{told:?}");
    cluster.node("b")?.start()?;
    cluster.wait_created("v", &ON)?;
    cluster.unstage("v", "a")
}

#[test]
fn an_attachment_that_ends_while_the_api_server_is_away_is_given_up_later() -> Result<()> {
    let cluster = TestCluster::start(&["a", "b", "c", "d"])?;
    cluster.create("v", SIZE, &ON)?;
    cluster.wait_created("v", &ON)?;
    cluster.stage("v", "d")?;
    let device = cluster.node("d")?.device("v");
    write_device(&device, 5)?;
    cluster.server.pause()?;
    write_device(&device, 6)?;
    cluster.unstage("v", "d")?;
    ensure!(!device.exists(), "{} is left", device.display());
    cluster.server.resume()?;
    cluster.wait_gone("v", "d")?;
    cluster.node("d")?.ensure_empty_pool()?;
    cluster.stage("v", "b")?;
    check_device(&cluster.node("b")?.device("v"), 6)?;
    cluster.unstage("v", "b")
}

#[test]
fn a_node_tells_that_it_lives_and_whether_its_engine_does() -> Result<()> {
    let cluster = TestCluster::start(&["a"])?;
    let engine = || -> Result<String> {
        let lease = cluster.lease("a")?.context("no Lease")?;
        let annotations = lease.metadata.annotations.unwrap_or_default();
        Ok(annotations.get(names::ANNOTATION_ENGINE).cloned().unwrap_or_default())
    };
    let renewed = || -> Result<_> { Ok(cluster.lease("a")?.and_then(|lease| lease.spec?.renew_time)) };
    let run = cluster.pool("a")?.status.context("it said who it is")?.incarnation;
    wait::until_true("its engine's run", BOUND, || Ok(engine()? == run.to_string()))?;
    let first = renewed()?;
    wait::until_true("renewed", BOUND, || Ok(renewed()? != first))?;

    let worker = Pid::from_raw(cluster.node("a")?.worker()?);
    kill(worker, Signal::SIGSTOP)?;
    let stopped = wait::until_true("its engine is down", BOUND, || Ok(engine()? == names::ENGINE_DOWN));
    let told = wait::until_true("the pool says so too", BOUND, || {
        Ok(cluster.pool("a")?.status.unwrap_or_default().incarnation == 0)
    });
    kill(worker, Signal::SIGCONT)?;
    stopped.and(told)?;
    wait::until_true("the same run again", BOUND, || Ok(engine()? == run.to_string()))?;

    kill(worker, Signal::SIGKILL)?;
    wait::until_true("another run", BOUND, || {
        let now = cluster.pool("a")?.status.unwrap_or_default().incarnation;
        Ok(now > run && engine()? == now.to_string())
    })
}
