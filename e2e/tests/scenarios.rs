//! Losses and returns that chance would take long to draw.

use anyhow::{Context, Result, ensure};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::load::LoadProfile;
use lockstep_e2e::playground::{Fault, refusal};
use lockstep_e2e::random::Random;
use lockstep_e2e::soak::{Cluster, ClusterStart, FINISH_BOUND, OPERATION_BOUND, VOLUME};
use lockstep_e2e::wait;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SIZE_BYTES: u64 = 64 << 20;
const LOAD_BYTES: u64 = 32 << 20;
const OPERATIONS: u64 = 300;
const LEAVE_BOUND: Duration = Duration::from_secs(20);
/// A restarted member waits 10 s for the others before it starts alone.
const ALONE_BOUND: Duration = Duration::from_secs(40);

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Running {
    cluster: Cluster,
    _home: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

fn start(replicas: usize) -> Result<Running> {
    let turn = turn();
    let home = tempfile::Builder::new().prefix("lockstep-scenario-").tempdir()?;
    let start = ClusterStart {
        dir: &home.path().join("playground"),
        replicas,
        size_bytes: SIZE_BYTES,
        load_bytes: LOAD_BYTES,
        profile: LoadProfile::default(),
        front_end: None,
        pools: &[],
    };
    let cluster = Cluster::start(start, Random::new(11), &Cleanup::new())?;
    Ok(Running { cluster, _home: home, _turn: turn })
}

impl Running {
    fn load(&self) -> Result<()> {
        self.cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)
    }

    fn wait_in_sync(&self, asked: &str, wanted: &[&str]) -> Result<()> {
        wait::until_ok(&format!("in_sync is {wanted:?}, as {asked} sees it"), LEAVE_BOUND, || {
            let mut in_sync = self.cluster.playground().status(asked, VOLUME)?.in_sync;
            in_sync.sort();
            Ok((in_sync == wanted).then_some(()))
        })
    }

    fn finish(mut self) -> Result<()> {
        self.cluster.release()?;
        self.cluster.compare()?;
        self.cluster.destroy()
    }
}

#[test]
fn chain_of_losses_and_returns_ends_with_the_newest_data_everywhere() -> Result<()> {
    let mut running = start(3)?;
    running.cluster.attach("a", false)?;
    running.load()?;
    // A is lost with what it wrote last; B goes on alone with C, then C alone; each comes back from who is left.
    let playground = running.cluster.playground();
    playground.disturb("c", Fault::Kill, false)?;
    running.wait_in_sync("a", &["a", "b"])?;
    running.load()?;
    let playground = running.cluster.playground();
    playground.disturb("a", Fault::Kill, false)?;
    let old = running.cluster.attach("b", true)?.context("a had it attached")?;
    running.wait_in_sync("b", &["b"])?;
    running.load()?;
    let playground = running.cluster.playground();
    playground.restart("c", false)?;
    running.wait_in_sync("b", &["b", "c"])?;
    running.load()?;
    // The source of C is lost as soon as C is whole; what C got, A gets from it.
    running.cluster.playground().disturb("b", Fault::Kill, false)?;
    let older = running.cluster.attach("c", true)?.context("b had it attached")?;
    running.load()?;
    running.cluster.playground().restart("a", false)?;
    running.wait_in_sync("c", &["a", "c"])?;
    running.load()?;
    running.cluster.playground().restart("b", false)?;
    running.cluster.wait_whole()?;
    old.session.finish(FINISH_BOUND)?;
    older.session.finish(FINISH_BOUND)?;
    running.cluster.judge()?;
    running.finish()
}

#[test]
fn replica_that_is_not_in_sync_cannot_be_promoted() -> Result<()> {
    let mut running = start(2)?;
    running.cluster.attach("a", false)?;
    running.load()?;
    running.cluster.playground().disturb("b", Fault::Kill, false)?;
    running.wait_in_sync("a", &["a"])?;
    running.load()?;
    running.cluster.judge()?;
    // The only one that has the newest data goes away, and the old one comes back.
    running.cluster.playground().disturb("a", Fault::Kill, true)?;
    let playground = running.cluster.playground();
    playground.restart("b", false)?;
    for options in [&["--take-over", "--timeout", "5s"][..], &[]] {
        let refused = playground.attach("b", VOLUME, options).err().context("an outdated replica was promoted")?;
        let refused = refusal(&refused).with_context(|| format!("{refused:#}"))?;
        ensure!(refused.exit_code == Some(3) || refused.exit_code == Some(4), "{refused}");
    }
    ensure!(playground.status("b", VOLUME)?.in_sync != ["b"], "b made itself in sync");
    playground.restart("a", true)?;
    let old = running.cluster.attach("a", false)?.context("a had it attached")?;
    old.session.finish(FINISH_BOUND)?;
    running.load()?;
    running.cluster.wait_whole()?;
    running.cluster.judge()?;
    running.finish()
}

#[test]
fn tie_breaker_with_an_empty_directory_has_no_vote() -> Result<()> {
    let mut running = start(2)?;
    running.cluster.attach("a", false)?;
    running.load()?;
    running.cluster.judge()?;
    let playground = running.cluster.playground();
    playground.disturb("c", Fault::Stop, true)?;
    forget_votes(&playground.node_dir("c"))?;
    playground.restart("c", true)?;
    // With one of two replicas away, two of the three votes are needed, and c cannot give one.
    playground.disturb("a", Fault::Kill, true)?;
    let refused = playground.attach("b", VOLUME, &["--take-over", "--timeout", "8s"]);
    ensure!(refused.is_err(), "b was promoted by the vote of a tie-breaker that forgot everything");
    let playground = running.cluster.playground();
    playground.restart("a", true)?;
    let old = running.cluster.attach("a", false)?.context("a had it attached")?;
    old.session.finish(FINISH_BOUND)?;
    running.load()?;
    running.cluster.wait_whole()?;
    running.cluster.judge()?;
    running.finish()
}

/// Empties the engine's state of a node: voters' memories. What the cluster is stays.
fn forget_votes(node_dir: &std::path::Path) -> Result<()> {
    for name in ["engine", "pool"] {
        let directory = node_dir.join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory).with_context(|| format!("empty {}", directory.display()))?;
        }
    }
    Ok(())
}

#[test]
fn all_down_at_once_serves_one_answer_whatever_the_order_of_return() -> Result<()> {
    let mut running = start(2)?;
    for order in [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["b", "a", "c"]] {
        let node = if order[0] == "c" { "a" } else { order[0] };
        running.cluster.attach(node, false)?;
        running.load()?;
        running.cluster.judge()?;
        running.load()?;
        for node in order {
            running.cluster.playground().disturb(node, Fault::Kill, true)?;
        }
        for node in order {
            running.cluster.playground().restart(node, true)?;
        }
        let old = wait::until_ok(&format!("{node} serves again, {order:?}"), ALONE_BOUND, || {
            running.cluster.attach(node, false).map(Some)
        })?;
        old.context("it was attached before")?.session.finish(FINISH_BOUND)?;
        running.load()?;
        running.cluster.wait_whole()?;
        running.cluster.judge().with_context(|| format!("after a return in the order {order:?}"))?;
        running.cluster.release()?;
        running.cluster.compare()?;
    }
    running.finish()
}

#[test]
fn one_member_starts_alone_after_all_were_down() -> Result<()> {
    let mut running = start(2)?;
    for alone in ["a", "b"] {
        running.cluster.attach("a", false)?;
        running.load()?;
        running.cluster.judge()?;
        running.load()?;
        for node in ["a", "b", "c"] {
            running.cluster.playground().disturb(node, Fault::Kill, true)?;
        }
        for node in ["c", alone] {
            running.cluster.playground().restart(node, true)?;
        }
        let old = wait::until_ok(&format!("{alone} serves alone"), ALONE_BOUND, || {
            running.cluster.attach(alone, false).map(Some)
        })?;
        old.context("it was attached before")?.session.finish(FINISH_BOUND)?;
        running.load()?;
        let other = if alone == "a" { "b" } else { "a" };
        running.cluster.playground().restart(other, true)?;
        running.cluster.wait_whole()?;
        running.cluster.judge().with_context(|| format!("after {alone} started alone"))?;
        running.cluster.release()?;
        running.cluster.compare()?;
    }
    running.finish()
}
