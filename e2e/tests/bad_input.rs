//! Wrong input, forbidden states and strangers, as a user and the network meet them.

use anyhow::{Context, Result, ensure};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::command::{program, run_ok};
use lockstep_e2e::load::{AlignedBuffer, BLOCK_BYTES, Target};
use lockstep_e2e::loops::LoopDevice;
use lockstep_e2e::playground::{Cli, Fault, Playground, Refusal, built_program, refusal};
use lockstep_e2e::random::Random;
use lockstep_e2e::wait;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

const ANYTHING_ELSE: i32 = 1;
const WRONG_INPUT: i32 = 2;
const STATE_FORBIDS: i32 = 3;
const NOT_REACHABLE: i32 = 4;
const DEVICE_BYTES: u64 = 64 << 20;
/// XFS has no file system that is smaller than 300 MiB. The file has holes.
const POOL_BYTES: u64 = 512 << 20;
const BOUND: Duration = Duration::from_secs(20);

struct Ground {
    playground: Playground,
    home: tempfile::TempDir,
}

fn ground() -> Result<Ground> {
    let home = tempfile::Builder::new().prefix("lockstep-input-").tempdir()?;
    let playground = Playground::start(&home.path().join("playground"), 3, &Cleanup::new())?;
    Ok(Ground { playground, home })
}

impl Ground {
    /// Runs a command at `a` that has to be refused with this exit code.
    fn refused(&self, exit_code: i32, arguments: &[&str]) -> Result<Refusal> {
        let shown = arguments.join(" ");
        let error = self.playground.at("a", arguments).err().with_context(|| format!("not refused: {shown}"))?;
        let found = refusal(&error).with_context(|| format!("{shown}: refused without JSON: {error:#}"))?;
        ensure!(found.exit_code == Some(exit_code), "{shown}: wanted exit code {exit_code}, got {found}");
        Ok(found.clone())
    }

    fn names(&self, node: &str) -> Result<Vec<String>> {
        let list = self.playground.at(node, &["volume", "list"])?;
        let names = list.as_array().context("a list")?.iter().filter_map(|it| it["volume"].as_str().map(str::to_owned));
        Ok(names.collect())
    }
}

#[test]
fn wrong_sizes_and_names_are_named_and_nothing_is_created() -> Result<()> {
    let ground = ground()?;
    let create = |name: &'static str, size: &'static str| ["volume", "create", name, "--size", size, "--replicas", "2"];
    for size in ["0", "4097", "9EiB"] {
        let found = ground.refused(WRONG_INPUT, &create("v", size))?;
        ensure!(found.field.as_deref().is_some_and(|field| field.contains("size")), "{size}: {found:?}");
    }
    let long = "x".repeat(64);
    for name in ["a/b", "", ".", long.as_str()] {
        ground.refused(WRONG_INPUT, &["volume", "create", name, "--size", "64MiB", "--replicas", "2"])?;
    }
    ground.refused(WRONG_INPUT, &["volume", "create", "v", "--size", "64MiB", "--on", "a,nobody"])?;
    for node in ground.playground.nodes() {
        ensure!(ground.names(node)?.is_empty(), "{node} has {:?}", ground.names(node)?);
    }
    for words in [&["volume", "status", "none"][..], &["volume", "attach", "none"], &["volume", "delete", "none"]] {
        ground.refused(WRONG_INPUT, words)?;
    }
    // What the machine refuses is nobody's wrong input.
    let error = Cli::find()?.json(&["--dir", "/proc/none", "playground", "start", "--nodes", "3"]);
    let error = error.err().context("a playground was made in /proc")?;
    ensure!(refusal(&error).is_some_and(|found| found.exit_code == Some(ANYTHING_ELSE)), "{error:#}");
    let error = ground.playground.at("nobody", &["volume", "list"]).err().context("an unknown node answered")?;
    ensure!(refusal(&error).is_some_and(|found| found.exit_code == Some(WRONG_INPUT)), "{error:#}");
    ground.playground.destroy()
}

#[test]
fn only_one_node_writes_and_the_other_is_told_which() -> Result<()> {
    let ground = ground()?;
    let playground = &ground.playground;
    playground.create("a", "v", "64MiB", 2, &["--on", "a,b"])?;
    playground.attach("b", "v", &["--front-end", "nbd-socket"])?;
    let found = ground.refused(STATE_FORBIDS, &["volume", "attach", "v"])?;
    ensure!(found.holder.as_deref() == Some("b"), "{found:?}");
    ground.refused(STATE_FORBIDS, &["volume", "create", "v", "--size", "128MiB", "--replicas", "2"])?;
    // What is not there cannot answer.
    playground.disturb("a", Fault::Stop, true)?;
    ground.refused(NOT_REACHABLE, &["volume", "status", "v"])?;
    playground.restart("a", true)?;
    playground.detach("b", "v")?;
    ground.playground.destroy()
}

#[test]
fn attach_that_nobody_waits_for_any_more_is_given_up() -> Result<()> {
    let ground = ground()?;
    let playground = &ground.playground;
    playground.create("a", "v", "64MiB", 2, &["--on", "a,b"])?;
    playground.attach("b", "v", &["--front-end", "nbd-socket"])?;
    // The writer is alive, and is not proven to be gone: one caller's time is up, the other is killed.
    ground.refused(NOT_REACHABLE, &["volume", "attach", "v", "--take-over", "--timeout", "1s"])?;
    let found = ground.refused(STATE_FORBIDS, &["volume", "attach", "v"])?;
    ensure!(found.holder.as_deref() == Some("b"), "after a timeout: {found:?}");
    let mut caller = Command::new(built_program("lockstep", "LOCKSTEP_BIN")?)
        .arg("--dir")
        .arg(playground.dir())
        .args(["--node", "a", "volume", "attach", "v", "--take-over", "--timeout", "1m"])
        .stderr(Stdio::piped())
        .spawn()?;
    let told = BufReader::new(caller.stderr.take().context("piped")?).lines().map_while(Result::ok);
    let waits = told.into_iter().find(|line| line.contains("waiting for proof"));
    caller.kill()?;
    caller.wait()?;
    ensure!(waits.is_some(), "the attach did not wait");
    let found = ground.refused(STATE_FORBIDS, &["volume", "attach", "v"])?;
    ensure!(found.holder.as_deref() == Some("b"), "after the caller's end: {found:?}");
    // Nobody takes the volume over when it becomes free.
    playground.detach("b", "v")?;
    playground.attach("c", "v", &["--front-end", "nbd-socket"])?;
    ensure!(playground.status("c", "v")?.writers == ["c"], "{:?}", playground.status("c", "v")?.writers);
    ground.playground.destroy()
}

#[test]
fn replica_that_is_gone_from_its_pool_is_named_and_not_made_anew() -> Result<()> {
    let ground = ground()?;
    let playground = &ground.playground;
    playground.create("a", "v", "64MiB", 2, &["--on", "a,b"])?;
    let pool = playground.pool_dir("a")?;
    playground.disturb("a", Fault::Stop, true)?;
    let away = ground.home.path().join("away");
    fs::create_dir(&away)?;
    for entry in fs::read_dir(&pool)? {
        let entry = entry?;
        // Everything but what says that this directory is a pool.
        if entry.file_type()?.is_dir() {
            fs::rename(entry.path(), away.join(entry.file_name()))?;
        }
    }
    ensure!(fs::read_dir(&away)?.count() > 0, "nothing was taken away from {}", pool.display());
    playground.restart("a", true)?;
    let refused = wait::until_ok("the agent has looked into its pool", BOUND, || {
        let found = ground.refused(STATE_FORBIDS, &["volume", "attach", "v", "--front-end", "nbd-socket"])?;
        Ok(Some(found))
    })?;
    ensure!(refused.message.contains("attach at another node"), "{refused}");
    let left: Vec<_> =
        fs::read_dir(&pool)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    ensure!(!left.iter().any(|name| pool.join(name).is_dir()), "something was made in its place: {left:?}");
    playground.attach("b", "v", &["--front-end", "nbd-socket"])?;
    ground.playground.destroy()
}

#[test]
fn requests_fail_instead_of_waiting_where_a_volume_is_made_so() -> Result<()> {
    let ground = ground()?;
    let playground = &ground.playground;
    playground.create("a", "v", "64MiB", 2, &["--on", "a,b", "--on-quorum-loss", "error"])?;
    let target = Target::of(&playground.attach("a", "v", &["--front-end", "nbd-socket"])?)?;
    let buffer = AlignedBuffer::new(BLOCK_BYTES);
    let connection = target.open()?;
    connection.write(0, buffer.bytes())?;
    for node in ["b", "c"] {
        playground.disturb(node, Fault::Kill, true)?;
    }
    // Neither a peer nor a quorum is left: the write waits for suspicion, and fails.
    let error = connection.write(0, buffer.bytes()).err().context("a write without a quorum completed")?;
    ensure!(error.raw_os_error() == Some(libc::EIO) || error.kind() == std::io::ErrorKind::Other, "{error:?}");
    for node in ["b", "c"] {
        playground.restart(node, true)?;
    }
    wait::until_ok("the volume serves again", BOUND, || Ok(Some(target.open()?.write(0, buffer.bytes())?)))?;
    ground.playground.destroy()
}

#[test]
fn pool_with_foreign_files_is_refused_and_untouched() -> Result<()> {
    let ground = ground()?;
    let foreign = ground.home.path().join("foreign");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("letter.txt"), "dear reader")?;
    ground.playground.set_pool("b", &foreign)?;
    let words = ["volume", "create", "v", "--size", "64MiB", "--replicas", "2", "--on", "a,b"];
    let found = ground.refused(STATE_FORBIDS, &words)?;
    ensure!(found.message.contains("letter.txt"), "does not say what it found: {found}");
    let left: Vec<_> = fs::read_dir(&foreign)?.map(|entry| entry.map(|it| it.file_name())).collect::<Result<_, _>>()?;
    ensure!(left == ["letter.txt"], "something was written: {left:?}");
    ground.playground.destroy()
}

#[test]
fn attach_where_the_pool_is_not_open_says_so_and_another_node_serves() -> Result<()> {
    let ground = ground()?;
    let playground = &ground.playground;
    playground.create("a", "v", "64MiB", 2, &["--on", "a,b"])?;
    playground.create("b", "elsewhere", "64MiB", 2, &["--on", "b,c"])?;
    let foreign = ground.home.path().join("foreign");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("letter.txt"), "dear reader")?;
    playground.set_pool("a", &foreign)?;
    for front_end in ["loop", "nbd-socket"] {
        let found = ground.refused(STATE_FORBIDS, &["volume", "attach", "v", "--front-end", front_end])?;
        ensure!(found.kind == "state_forbids", "{found:?}");
        for part in ["the pool of node a is not open", "letter.txt", "attach at another node"] {
            ensure!(found.message.contains(part), "does not say {part:?}: {found}");
        }
    }
    let left: Vec<_> = fs::read_dir(&foreign)?.map(|entry| entry.map(|it| it.file_name())).collect::<Result<_, _>>()?;
    ensure!(left == ["letter.txt"], "something was written: {left:?}");
    // Another node has its replica, and this one needs none for a volume that lies elsewhere.
    for (node, volume) in [("b", "v"), ("a", "elsewhere")] {
        let target = Target::of(&playground.attach(node, volume, &["--front-end", "nbd-socket"])?)?;
        target.open()?.write(0, AlignedBuffer::new(BLOCK_BYTES).bytes())?;
    }
    ground.playground.destroy()
}

#[test]
fn device_with_a_signature_is_refused_and_untouched() -> Result<()> {
    let ground = ground()?;
    let cleanup = Cleanup::new();
    let platter = ground.home.path().join("platter");
    File::create(&platter)?.set_len(DEVICE_BYTES)?;
    let device = LoopDevice::over(&platter, 4096, &cleanup)?;
    run_ok(program("mkfs.ext4", ["-q", "-F", "-L", "letters"]).arg(device.path()))?;
    let before = fs::read(&platter)?;
    ground.playground.set_pool_device("b", device.path())?;
    let words = ["volume", "create", "v", "--size", "64MiB", "--replicas", "2", "--on", "a,b"];
    let found = ground.refused(STATE_FORBIDS, &words)?;
    ensure!(found.message.contains("ext4") && found.message.contains("letters"), "does not say what it found: {found}");
    ground.playground.disturb("b", Fault::Stop, true)?;
    ensure!(fs::read(&platter)? == before, "the device was written to");
    ground.playground.destroy()
}

#[test]
fn blank_device_is_taken_also_by_an_engine_that_is_there_before_it_is_mounted() -> Result<()> {
    let ground = ground()?;
    let (playground, cleanup) = (&ground.playground, Cleanup::new());
    let platter = ground.home.path().join("platter");
    File::create(&platter)?.set_len(POOL_BYTES)?;
    let device = LoopDevice::over(&platter, 4096, &cleanup)?;
    let mounted = playground.pool_dir("b")?;
    playground.set_pool_device("b", device.path())?;
    playground.create("a", "v", "64MiB", 2, &["--on", "a,b"])?;
    // As after a restart of the machine: the agent mounts while the engine runs.
    playground.disturb("b", Fault::Stop, true)?;
    let unmount = || run_ok(&mut program("umount", [&mounted])).map(Some);
    wait::until_ok("the engine has let go of its pool", BOUND, unmount)?;
    playground.restart("b", true)?;
    wait::until_ok("the replica on the device is in sync again", BOUND, || {
        Ok(playground.status("a", "v")?.in_sync.iter().any(|node| node == "b").then_some(()))
    })?;
    // Still mounted, it does not pass for the directory below.
    playground.set_pool("b", &mounted)?;
    let words = ["volume", "create", "w", "--size", "64MiB", "--replicas", "2", "--on", "a,b"];
    let found = ground.refused(STATE_FORBIDS, &words)?;
    ensure!(found.message.contains("unmount it"), "does not say what to do: {found}");
    ground.playground.destroy()
}

/// Where the engine of a node listens for its peers.
fn mirror_address(playground: &Playground, node: &str) -> Result<(String, u16)> {
    let text = fs::read_to_string(playground.node_dir(node).join("cluster.toml"))?;
    let cluster: toml::Table = text.parse()?;
    let nodes = cluster.get("nodes").and_then(toml::Value::as_array).context("nodes")?;
    let named = |it: &&toml::Value| it.get("name").and_then(toml::Value::as_str) == Some(node);
    let found = nodes.iter().find(named).context("the node")?;
    let address = found.get("address").and_then(toml::Value::as_str).context("address")?.to_owned();
    let port = found.get("port").and_then(toml::Value::as_integer).context("port")?;
    Ok((address, u16::try_from(port)?))
}

#[test]
fn strangers_are_disconnected_and_the_volume_goes_on() -> Result<()> {
    let ground = ground()?;
    let playground = &ground.playground;
    playground.create("a", "v", "64MiB", 2, &["--on", "a,b"])?;
    playground.wait_whole(&["a".to_owned(), "b".to_owned()], "v")?;
    let attachment = playground.attach("a", "v", &["--front-end", "nbd-socket"])?;
    let connection = Target::of(&attachment)?.open()?;
    let incarnation = |node: &str| playground.status(node, "v").map(|status| status.this_node.incarnation);
    let hostile = |node: &str| playground.metric(node, "lockstep_connections_hostile_total");
    let counted = [hostile("a")?, hostile("b")?];
    let (before_a, before_b) = (incarnation("a")?, incarnation("b")?);
    let mut random = Random::new(5);
    for attempt in 0..40u64 {
        for node in ["a", "b"] {
            let (address, port) = mirror_address(playground, node)?;
            let mut stranger = TcpStream::connect((address.as_str(), port)).context("connect as a stranger")?;
            stranger.set_read_timeout(Some(BOUND))?;
            let mut bytes: Vec<u8> =
                (0..random.below(4000)).map(|_| u8::try_from(random.below(256)).unwrap_or(0)).collect();
            if attempt % 4 == 0 {
                // A length that claims everything there is.
                bytes = [[0xff; 64].as_slice(), &bytes].concat();
            }
            // The engine may close while this side still writes.
            let _ = stranger.write_all(&bytes);
            let _ = stranger.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stranger.read_to_end(&mut answer);
        }
        connection.write(attempt * BLOCK_BYTES as u64, AlignedBuffer::new(BLOCK_BYTES).bytes())?;
    }
    ensure!((incarnation("a")?, incarnation("b")?) == (before_a, before_b), "an engine was restarted");
    // Those that sent less than a greeting have only hung up.
    ensure!(hostile("a")? >= counted[0] + 20 && hostile("b")? >= counted[1] + 20, "strangers are not counted");
    ensure!(playground.status("a", "v")?.is_whole(), "a replica left");
    playground.detach("a", "v")?;
    wait::until_true("detached", BOUND, || Ok(playground.status("a", "v")?.writers.is_empty()))?;
    playground.at("a", &["volume", "delete", "v"])?;
    for node in playground.nodes() {
        ensure!(ground.names(node)?.is_empty(), "{node} still has {:?}", ground.names(node)?);
    }
    ground.playground.destroy()
}
