//! Losses and returns that chance would take long to draw.

use anyhow::{Context, Result, ensure};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::load::LoadProfile;
use lockstep_e2e::playground::{Fault, refusal};
use lockstep_e2e::random::Random;
use lockstep_e2e::soak::{Cluster, ClusterStart, FINISH_BOUND, OPERATION_BOUND, VOLUME, Writer};
use lockstep_e2e::turn::turn;
use lockstep_e2e::wait;
use std::fs;
use std::sync::MutexGuard;
use std::time::Duration;

const SIZE_BYTES: u64 = 64 << 20;
const LOAD_BYTES: u64 = 32 << 20;
const OPERATIONS: u64 = 300;
const LEAVE_BOUND: Duration = Duration::from_secs(20);
/// A restarted member waits 10 s for the others before it starts alone.
const ALONE_BOUND: Duration = Duration::from_secs(40);

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
        nodes: 3,
        start_options: &[],
        volume_options: &[],
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

/// The writer dies, and another node goes on; whoever waits for operations of the dead one is told.
fn lose_writer(running: &mut Running, lost: &str, successor: &str, in_sync: &[&str]) -> Result<()> {
    running.cluster.playground().disturb(lost, Fault::Kill, false)?;
    let old = running.cluster.attach(successor, true)?.with_context(|| format!("{lost} had it attached"))?;
    running.wait_in_sync(successor, in_sync)?;
    running.load()?;
    old.session.finish(FINISH_BOUND).map(|_| ())
}

fn bring_back(running: &Running, node: &str, asked: &str, in_sync: &[&str]) -> Result<()> {
    running.cluster.playground().restart(node, false)?;
    running.wait_in_sync(asked, in_sync)?;
    running.load()
}

#[test]
fn chain_of_losses_and_returns_ends_with_the_newest_data_everywhere() -> Result<()> {
    let mut running = start(3)?;
    running.cluster.attach("a", false)?;
    running.load()?;
    // Each writer in turn is lost with what it wrote last, and comes back from who went on; the next is lost at once.
    for (lost, successor, left) in [("a", "b", ["b", "c"]), ("b", "c", ["a", "c"]), ("c", "a", ["a", "b"])] {
        lose_writer(&mut running, lost, successor, &left).with_context(|| format!("{lost} is lost"))?;
        bring_back(&running, lost, successor, &["a", "b", "c"]).with_context(|| format!("{lost} comes back"))?;
    }
    running.cluster.wait_whole()?;
    running.cluster.judge()?;
    running.finish()
}

#[test]
fn chain_of_losses_that_overlap_ends_with_the_newest_data_everywhere() -> Result<()> {
    let mut running = start(3)?;
    running.cluster.attach("a", false)?;
    running.load()?;
    running.cluster.playground().disturb("b", Fault::Kill, false)?;
    running.wait_in_sync("a", &["a", "c"])?;
    running.load()?;
    // Two of three voters are away: what is written waits, and nothing fails.
    running.cluster.playground().disturb("c", Fault::Kill, false)?;
    wait::until_true("requests wait for a quorum", LEAVE_BOUND, || {
        Ok(running.cluster.playground().status("a", VOLUME)?.state == "Suspended")
    })?;
    running.cluster.playground().restart("b", false)?;
    running.wait_in_sync("a", &["a", "b"])?;
    running.load()?;
    ensure!(running.cluster.writer()?.session.counts().errors == 0, "{:?}", running.cluster.writer()?.session.counts());
    // C has missed all of that and votes; the source of what B has is lost; C gets it from B, and A from both.
    let playground = running.cluster.playground();
    playground.disturb("a", Fault::Kill, false)?;
    playground.restart("c", false)?;
    let old = running.cluster.attach("b", true)?.context("a had it attached")?;
    running.wait_in_sync("b", &["b", "c"])?;
    running.load()?;
    old.session.finish(FINISH_BOUND)?;
    bring_back(&running, "a", "b", &["a", "b", "c"])?;
    running.cluster.wait_whole()?;
    running.cluster.judge()?;
    running.finish()
}

/// Attaches where it was attached before; what others still try to take over may come first, and is given back.
fn attach_again(running: &mut Running, node: &str) -> Result<Writer> {
    let old =
        wait::until_ok(&format!("{node} serves again"), ALONE_BOUND, || running.cluster.attach(node, false).map(Some))?;
    old.context("it was attached before")
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
    // By the register a is the writer still; nobody can decide otherwise. A take-over that was given up is tried for a while
    // longer, so it comes last.
    for (options, exit_code) in [(&["--timeout", "15s"][..], 3), (&["--take-over", "--timeout", "5s"], 4)] {
        let refused = playground.attach("b", VOLUME, options).err().context("an outdated replica was promoted")?;
        let refused = refusal(&refused).with_context(|| format!("{refused:#}"))?;
        ensure!(refused.exit_code == Some(exit_code), "{refused}");
    }
    ensure!(playground.status("b", VOLUME)?.in_sync != ["b"], "b made itself in sync");
    playground.restart("a", true)?;
    let old = attach_again(&mut running, "a")?;
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
    empty(&playground.node_dir("c"))?;
    // The writer goes before the tie-breaker is back: nobody in sync could give it a vote again.
    playground.disturb("a", Fault::Kill, true)?;
    playground.restart("c", true)?;
    wait::until_ok("c takes part again", LEAVE_BOUND, || {
        let peers = playground.status("c", VOLUME)?.peers;
        // It never heard `a`, and says so: who judges whether `a` is dead asks all that could hear it.
        let says = |node: &str, reachable| peers.iter().any(|it| it.node == node && it.reachable == reachable);
        Ok((says("b", true) && says("a", false)).then_some(()))
    })?;
    // With one of two replicas away two of three votes are needed. To ask at c must not give it one either.
    for node in ["c", "b"] {
        let refused = playground.attach(node, VOLUME, &["--take-over", "--timeout", "5s"]);
        let refused = refused.err().with_context(|| format!("{node} was promoted by a vote that forgot everything"))?;
        let refused = refusal(&refused).with_context(|| format!("{refused:#}"))?;
        ensure!(refused.exit_code == Some(4), "{refused}");
    }
    playground.restart("a", true)?;
    let old = attach_again(&mut running, "a")?;
    old.session.finish(FINISH_BOUND)?;
    running.load()?;
    running.cluster.wait_whole()?;
    // Both replicas are back: c gets a new vote from them, which counts.
    let playground = running.cluster.playground();
    wait::until_ok("c has a vote again", LEAVE_BOUND, || {
        let status = playground.status("c", VOLUME)?;
        Ok((status.voters.iter().any(|node| node == "c") && status.is_whole()).then_some(()))
    })?;
    playground.disturb("a", Fault::Kill, true)?;
    let old = running.cluster.attach("b", true)?.context("a had it attached")?;
    running.load()?;
    running.cluster.playground().restart("a", true)?;
    running.cluster.wait_whole()?;
    old.session.finish(FINISH_BOUND)?;
    running.cluster.judge()?;
    running.finish()
}

/// Empties a node's directory: the memories of voters and what the agent knows. What the cluster is stays.
fn empty(node_dir: &std::path::Path) -> Result<()> {
    for entry in fs::read_dir(node_dir).with_context(|| format!("list {}", node_dir.display()))? {
        let entry = entry?;
        if entry.file_name() == "cluster.toml" {
            continue;
        }
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("empty {}", path.display()))?;
    }
    Ok(())
}

#[test]
fn forced_generation_goes_on_and_the_old_one_gives_up_only_when_told() -> Result<()> {
    let mut running = start(2)?;
    running.cluster.attach("a", false)?;
    running.load()?;
    running.cluster.judge()?;
    for node in ["c", "a"] {
        running.cluster.playground().disturb(node, Fault::Kill, true)?;
    }
    let playground = running.cluster.playground();
    let refused = playground.attach("b", VOLUME, &["--take-over", "--timeout", "3s"]);
    let refused = refused.err().context("one of three voters decided alone")?;
    ensure!(refusal(&refused).is_some_and(|found| found.exit_code == Some(4)), "{refused:#}");
    playground.at("b", &["volume", "force", VOLUME, "--i-accept-data-loss"])?;
    let old = attach_again(&mut running, "b")?;
    running.load()?;
    let playground = running.cluster.playground();
    for node in ["a", "c"] {
        playground.restart(node, true)?;
    }
    for node in ["a", "b"] {
        wait::until_ok(&format!("{node} has met the other generation"), LEAVE_BOUND, || {
            let reason = playground.status(node, VOLUME)?.this_node.reason.unwrap_or_default();
            Ok(reason.contains("another generation").then_some(()))
        })?;
    }
    running.load()?;
    running.wait_in_sync("b", &["b"])?;
    let playground = running.cluster.playground();
    let unsaid = playground.at("a", &["volume", "rejoin", VOLUME]).err().context("gave up without a word")?;
    ensure!(refusal(&unsaid).is_some_and(|found| found.exit_code == Some(2)), "{unsaid:#}");
    playground.at("a", &["volume", "rejoin", VOLUME, "--i-accept-data-loss"])?;
    running.cluster.wait_whole()?;
    // The tie-breaker has nothing to give up, and follows.
    let playground = running.cluster.playground();
    wait::until_ok("c votes in the generation that was forced", LEAVE_BOUND, || {
        let (here, forced) = (playground.status("c", VOLUME)?, playground.status("b", VOLUME)?);
        let votes = here.voters.iter().any(|node| node == "c");
        Ok((votes && here.generation == forced.generation && here.is_whole()).then_some(()))
    })?;
    old.session.finish(FINISH_BOUND)?;
    running.load()?;
    running.cluster.judge()?;
    running.finish()
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
        let old = attach_again(&mut running, node).with_context(|| format!("{order:?}"))?;
        old.session.finish(FINISH_BOUND)?;
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
        attach_again(&mut running, alone)?.session.finish(FINISH_BOUND)?;
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
