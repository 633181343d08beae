//! The engine restarts under whoever uses its devices: killed, exchanged, ended as planned. Devices are the kernel's own.

use anyhow::{Context, Result, bail, ensure};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::command::{program, run, run_ok};
use lockstep_e2e::load::{LoadProfile, LoadSession, Recorder, RecorderLimits, Target, scan};
use lockstep_e2e::loops::Mounted;
use lockstep_e2e::playground::{Fault, Playground, built_program};
use lockstep_e2e::random::Random;
use lockstep_e2e::soak::{Cluster, ClusterStart, FINISH_BOUND, FrontEnd, OPERATION_BOUND, VOLUME};
use lockstep_e2e::turn::turn;
use lockstep_e2e::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const SIZE_BYTES: u64 = 64 << 20;
const LOAD_BYTES: u64 = 32 << 20;
const OPERATIONS: u64 = 300;
/// For a process to end or to start.
const PROCESS_BOUND: Duration = Duration::from_secs(20);
/// Nobody may wait longer, on a machine that others use too. What is wanted is 2 s.
const GAP_MAX: Duration = Duration::from_secs(10);

struct Running {
    cluster: Cluster,
    home: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

fn start(replicas: usize) -> Result<Running> {
    let turn = turn();
    let home = tempfile::Builder::new().prefix("lockstep-restarts-").tempdir()?;
    let start = ClusterStart {
        dir: &home.path().join("playground"),
        replicas,
        size_bytes: SIZE_BYTES,
        load_bytes: LOAD_BYTES,
        profile: LoadProfile::default(),
        front_end: Some(FrontEnd::Loop),
        pools: &[],
        nodes: 3,
        start_options: &[],
        volume_options: &[],
    };
    let cluster = Cluster::start(start, Random::new(17), &Cleanup::new())?;
    Ok(Running { cluster, home, _turn: turn })
}

/// An engine that the test starts: in a mount namespace of its own, as a container has one, and with a supervisor that starts the
/// worker again.
struct OwnEngine {
    supervisor: Child,
}

impl OwnEngine {
    fn start(playground: &Playground, node: &str) -> Result<OwnEngine> {
        let state = playground.node_dir(node);
        let log = File::options().create(true).append(true).open(state.join("supervisor.log"))?;
        let mut command = program("unshare", ["--mount", "--propagation", "private", "--"]);
        command.arg(built_program("lockstep-engine", "LOCKSTEP_ENGINE_BIN")?);
        command.arg("--state-dir").arg(&state).args(["--node", node, "--restart"]);
        let supervisor = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let own = OwnEngine { supervisor };
        own.wait_ready(playground, node)?;
        Ok(own)
    }

    fn wait_ready(&self, playground: &Playground, node: &str) -> Result<()> {
        wait::until_ok("the engine answers", PROCESS_BOUND, || playground.at(node, &["volume", "list"]).map(Some))?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.supervisor.id())?), signal)?)
    }

    fn wait_end(mut self) -> Result<()> {
        wait::until_true("the supervisor ends", PROCESS_BOUND, || Ok(self.supervisor.try_wait()?.is_some()))
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        // What is left of the node ends with its playground.
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

/// The process of one of a node's programs, if it runs.
fn pid_of(playground: &Playground, node: &str, program: &str) -> Result<Option<Pid>> {
    let all = playground.run(&["playground", "status"])?;
    let nodes = all.as_array().context("a list of nodes")?;
    let state = nodes.iter().find(|state| state["node"] == node).context("the node")?;
    state["pids"][program].as_i64().map(|pid| Ok(Pid::from_raw(i32::try_from(pid)?))).transpose()
}

fn end(playground: &Playground, node: &str, programs: &[&str]) -> Result<()> {
    for name in programs {
        let Some(pid) = pid_of(playground, node, name)? else { continue };
        kill(pid, Signal::SIGKILL)?;
        wait::until_true(&format!("the {name} has ended"), PROCESS_BOUND, || {
            let alive = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            Ok(alive.is_empty() || alive.contains(") Z "))
        })?;
    }
    Ok(())
}

/// Exchanges a node's engine for one that the test starts.
fn adopt(playground: &Playground, node: &str) -> Result<OwnEngine> {
    end(playground, node, &["supervisor", "worker"])?;
    OwnEngine::start(playground, node)
}

/// Kills the worker and waits until another one runs.
fn kill_worker(playground: &Playground, node: &str) -> Result<()> {
    let old = pid_of(playground, node, "worker")?.context("a worker runs")?;
    kill(old, Signal::SIGKILL)?;
    wait::until_true("another worker runs", PROCESS_BOUND, || {
        Ok(pid_of(playground, node, "worker")?.is_some_and(|pid| pid != old))
    })
}

/// What the holder of a node has.
fn held(playground: &Playground, node: &str) -> Result<Vec<String>> {
    let mut command = Command::new(built_program("lockstep-holder", "LOCKSTEP_HOLDER_BIN")?);
    command.arg("--state-dir").arg(playground.node_dir(node)).arg("--list");
    Ok(run_ok(&mut command)?.lines().map(str::to_owned).collect())
}

fn start_holder(playground: &Playground, node: &str) -> Result<Child> {
    let mut command = Command::new(built_program("lockstep-holder", "LOCKSTEP_HOLDER_BIN")?);
    command.arg("--state-dir").arg(playground.node_dir(node)).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start a holder")
}

/// Files behind loop devices that belong to this playground.
fn loops_of(dir: &Path) -> Result<Vec<String>> {
    let name = dir.canonicalize()?.to_string_lossy().replace('/', "!");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block")? {
        let backing = std::fs::read_to_string(entry?.path().join("loop/backing_file"));
        found.extend(backing.ok().filter(|backing| backing.contains(&name)));
    }
    Ok(found)
}

fn nothing_is_left(playground: &Playground, node: &str) -> Result<()> {
    wait::until_true("no loop device is left", PROCESS_BOUND, || Ok(loops_of(&playground.node_dir(node))?.is_empty()))?;
    let held = held(playground, node)?;
    ensure!(held.is_empty(), "the holder still has {held:?}");
    Ok(())
}

/// The end of what a node's engine logged, for the message of a test that fails.
fn engine_log(playground: &Playground, node: &str) -> String {
    let text = std::fs::read_to_string(playground.node_dir(node).join("supervisor.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}

/// Does something to the engine under load; nobody may get an error. Gives how long nothing completed.
fn unnoticed(running: &Running, what: &str, disturb: impl FnOnce(&Playground) -> Result<()>) -> Result<Duration> {
    let cluster = &running.cluster;
    let writer = cluster.writer()?;
    let session = &writer.session;
    session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
    let from = cluster.now();
    disturb(cluster.playground()).with_context(|| what.to_owned())?;
    let went_on = session.wait_progress(OPERATIONS, OPERATION_BOUND);
    went_on.with_context(|| format!("after: {what}\n{}", engine_log(cluster.playground(), &writer.node)))?;
    let gap = cluster.recorder().longest_gap(from, cluster.now());
    let errors = session.counts().errors;
    let log = || engine_log(cluster.playground(), &writer.node);
    ensure!(errors == 0, "{what}: {errors} errors, the last: {:?}\n{}", session.last_error(), log());
    println!("{what}: longest gap {} ms", gap.as_millis());
    ensure!(gap < GAP_MAX, "{what}: nothing completed for {gap:?}");
    Ok(gap)
}

fn survives_restarts(replicas: usize, node: &str) -> Result<()> {
    let mut running = start(replicas)?;
    let mut engine = adopt(running.cluster.playground(), node)?;
    running.cluster.attach(node, false)?;
    let mut longest = Duration::ZERO;
    for round in 1..=5 {
        longest = longest
            .max(unnoticed(&running, &format!("worker killed, {round}"), |playground| kill_worker(playground, node))?);
    }
    let both = unnoticed(&running, "supervisor and worker killed, another mount namespace", |playground| {
        engine.signal(Signal::SIGKILL)?;
        end(playground, node, &["worker"])?;
        engine = OwnEngine::start(playground, node)?;
        Ok(())
    })?;
    let planned = unnoticed(&running, "ended as planned, and started", |playground| {
        engine.signal(Signal::SIGTERM)?;
        std::mem::replace(&mut engine, placeholder()?).wait_end()?;
        ensure!(pid_of(playground, node, "worker")?.is_none(), "the worker runs on");
        engine = OwnEngine::start(playground, node)?;
        Ok(())
    })?;
    println!("{replicas} replicas: longest gap {} ms", longest.max(both).max(planned).as_millis());
    running.cluster.judge()?;
    running.cluster.release()?;
    nothing_is_left(running.cluster.playground(), node)?;
    drop(engine);
    running.cluster.compare()?;
    running.cluster.destroy()
}

/// A child that has ended, to put in the place of one that is waited for.
fn placeholder() -> Result<OwnEngine> {
    Ok(OwnEngine { supervisor: Command::new("true").spawn()? })
}

#[test]
fn restarts_are_invisible_with_two_replicas() -> Result<()> {
    survives_restarts(2, "a")
}

#[test]
fn restarts_are_invisible_with_three_replicas() -> Result<()> {
    survives_restarts(3, "a")
}

#[test]
fn restarts_are_invisible_at_a_node_without_a_replica() -> Result<()> {
    survives_restarts(2, "c")
}

#[test]
fn a_device_whose_volume_was_taken_over_fails_at_once_when_its_engine_is_back() -> Result<()> {
    let mut running = start(2)?;
    let engine = adopt(running.cluster.playground(), "a")?;
    running.cluster.attach("a", false)?;
    running.cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
    engine.signal(Signal::SIGKILL)?;
    end(running.cluster.playground(), "a", &["worker"])?;
    let old = running.cluster.attach("b", true)?.context("a had it attached")?;
    running.cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
    // Its operations wait, and not one has an answer yet: the device is at the holder.
    ensure!(old.session.counts().errors == 0, "{:?}", old.session.last_error());
    ensure!(held(running.cluster.playground(), "a")?.len() == 1);
    let engine = OwnEngine::start(running.cluster.playground(), "a")?;
    let counts = old.session.finish(FINISH_BOUND)?;
    ensure!(counts.errors > 0, "the device of a fenced node goes on: {counts:?}");
    nothing_is_left(running.cluster.playground(), "a")?;
    running.cluster.wait_whole()?;
    // What the old writer had open was not written over what the new one wrote.
    running.cluster.judge()?;
    running.cluster.release()?;
    drop(engine);
    running.cluster.compare()?;
    running.cluster.destroy()
}

#[test]
fn a_holder_that_is_exchanged_gets_everything_again() -> Result<()> {
    let mut running = start(2)?;
    let engine = adopt(running.cluster.playground(), "a")?;
    running.cluster.attach("a", false)?;
    unnoticed(&running, "holder killed and started", |playground| {
        end(playground, "a", &["holder"])?;
        ensure!(restart_visible(playground, "a")?.is_some(), "a holder that is gone is not missed");
        let mut holder = start_holder(playground, "a")?;
        wait::until_ok("the new holder has the device", PROCESS_BOUND, || {
            ensure!(holder.try_wait()?.is_none(), "the holder has ended");
            Ok((held(playground, "a")?.len() == 1).then_some(()))
        })?;
        wait::until_true("restarts are invisible again", PROCESS_BOUND, || {
            Ok(restart_visible(playground, "a")?.is_none())
        })
    })?;
    unnoticed(&running, "worker killed after the holder", |playground| kill_worker(playground, "a"))?;
    running.cluster.judge()?;
    running.cluster.release()?;
    nothing_is_left(running.cluster.playground(), "a")?;
    drop(engine);
    running.cluster.compare()?;
    running.cluster.destroy()
}

fn restart_visible(playground: &Playground, node: &str) -> Result<Option<String>> {
    let status = playground.at(node, &["volume", "status", VOLUME])?;
    Ok(status["this_node"]["restart_visible"].as_str().map(str::to_owned))
}

#[test]
fn devices_are_failed_on_demand_while_no_engine_runs() -> Result<()> {
    let mut running = start(2)?;
    let engine = adopt(running.cluster.playground(), "a")?;
    running.cluster.attach("a", false)?;
    running.cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
    engine.signal(Signal::SIGKILL)?;
    end(running.cluster.playground(), "a", &["worker"])?;
    let mut abort = Command::new(built_program("lockstep-holder", "LOCKSTEP_HOLDER_BIN")?);
    abort.arg("--state-dir").arg(running.cluster.playground().node_dir("a")).arg("--abort");
    ensure!(run_ok(&mut abort)?.starts_with("1 "));
    let old = running.cluster.attach("b", true)?.context("a had it attached")?;
    ensure!(old.session.finish(FINISH_BOUND)?.errors > 0);
    let engine = OwnEngine::start(running.cluster.playground(), "a")?;
    running.cluster.wait_whole()?;
    running.cluster.judge()?;
    running.cluster.release()?;
    drop(engine);
    running.cluster.destroy()
}

/// Writes one small file after the other, each durable before the next.
fn write_files(dir: &Path, stop: &AtomicBool, written: &AtomicU64) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let number = written.load(Ordering::Relaxed);
        let mut file = File::create(dir.join(number.to_string()))?;
        file.write_all(format!("{number}\n").repeat(500).as_bytes())?;
        file.sync_all()?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn a_file_system_goes_on_over_restarts() -> Result<()> {
    let running = start(2)?;
    let playground = running.cluster.playground();
    let _engine = adopt(playground, "a")?;
    playground.create("a", "files", "512MiB", 2, &["--on", "a,b"])?;
    let device = playground.attach("a", "files", &["--front-end", "loop"])?.device.context("a device")?;
    run_ok(program("mkfs.ext4", ["-q", "-F"]).arg(&device))?;
    let cleanup = Cleanup::new();
    let mounted = Mounted::mount(&device, &running.home.path().join("mounted"), &[], &cleanup)?;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let last = std::thread::scope(|scope| -> Result<u64> {
        let writer = scope.spawn(|| write_files(mounted.path(), &stop, &written));
        let progress = |more: u64| {
            let goal = written.load(Ordering::Relaxed) + more;
            wait::until_true("files are written", OPERATION_BOUND, || {
                ensure!(!writer.is_finished(), "the file system failed");
                Ok(written.load(Ordering::Relaxed) >= goal)
            })
        };
        let disturbed = (1..=3).try_for_each(|_| {
            progress(20)?;
            kill_worker(playground, "a")?;
            progress(20)
        });
        stop.store(true, Ordering::Relaxed);
        let ended = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        disturbed.and(ended)?;
        Ok(written.load(Ordering::Relaxed))
    })?;
    for number in 0..last {
        let text = std::fs::read_to_string(mounted.path().join(number.to_string()))?;
        ensure!(text == format!("{number}\n").repeat(500), "file {number} is not what was written");
    }
    println!("{last} files");
    drop(mounted);
    run_ok(program("e2fsck", ["-f", "-n"]).arg(&device))?;
    playground.detach("a", "files")?;
    nothing_is_left(playground, "a")
}

/// Where several nodes write, a write without an answer is not made again.
#[test]
fn of_several_writers_the_restarted_one_is_told_what_is_not_known() -> Result<()> {
    let _turn = turn();
    let home = tempfile::Builder::new().prefix("lockstep-restarts-").tempdir()?;
    let playground = Playground::start(&home.path().join("playground"), 3, &Cleanup::new())?;
    let engine = adopt(&playground, "a")?;
    let size = SIZE_BYTES.to_string();
    playground.create("a", "shared", &size, 2, &["--on", "a,b", "--access", "multi-writer"])?;
    let recorder = Arc::new(Recorder::new(RecorderLimits { blocks: LOAD_BYTES / 4096, found_max: 20 }));
    let mut random = Random::new(23);
    let mut sessions = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    for node in ["a", "b"] {
        let target = Target::of(&playground.attach(node, "shared", &["--front-end", "loop"])?)?;
        sessions.push(LoadSession::start(&recorder, target.clone(), LoadProfile::default(), &mut random));
        targets.push(target);
    }
    let progress = |session: &LoadSession| session.wait_progress(OPERATIONS, OPERATION_BOUND);
    sessions.iter().try_for_each(progress)?;
    for _ in 0..3 {
        kill_worker(&playground, "a")?;
        sessions.iter().try_for_each(progress)?;
    }
    let errors: Vec<u64> = sessions.iter().map(|session| session.counts().errors).collect();
    println!("errors at a and b: {errors:?}");
    for session in sessions {
        session.finish(FINISH_BOUND)?;
    }
    ensure!(errors[1] == 0, "the writer that goes on has {} errors", errors[1]);
    scan(&recorder, &targets[1])?;
    if let Err(found) = recorder.check() {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        bail!("the volume is wrong:\n{}", lines.join("\n"));
    }
    for node in ["a", "b"] {
        playground.detach(node, "shared")?;
        nothing_is_left(&playground, node)?;
    }
    drop(engine);
    playground.destroy()
}

/// The host goes down as planned: nobody comes, and nothing is left to wait for.
#[test]
fn a_node_that_is_stopped_leaves_no_device() -> Result<()> {
    let mut running = start(2)?;
    running.cluster.attach("a", false)?;
    running.cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
    running.cluster.playground().disturb("a", Fault::Stop, true)?;
    let none: PathBuf = running.cluster.playground().node_dir("a");
    let old = running.cluster.attach("b", true)?.context("a had it attached")?;
    old.session.finish(FINISH_BOUND)?;
    wait::until_true("no loop device is left", PROCESS_BOUND, || Ok(loops_of(&none)?.is_empty()))?;
    let still = run(&mut program("pgrep", ["-f", &none.to_string_lossy()]), PROCESS_BOUND)?;
    ensure!(still.stdout.trim().is_empty(), "runs still: {still}");
    running.cluster.playground().restart("a", true)?;
    running.cluster.wait_whole()?;
    running.cluster.judge()?;
    running.cluster.release()?;
    running.cluster.destroy()
}
