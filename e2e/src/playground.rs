//! Drives the `lockstep` command line as a user does, against a playground of its own.

use crate::cleanup::{Cleanup, Undo};
use crate::command::{self, Ended};
use crate::networks::{Dedicated, Networks};
use crate::status::{Attachment, NodeProcesses, VolumeStatus};
use crate::wait;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longer than any command may take (a take-over waits 30 s of its own at most).
pub const CLI_BOUND: Duration = Duration::from_secs(60);
/// For a volume of test size to be whole again after everything runs again.
pub const HEAL_BOUND: Duration = Duration::from_secs(90);
/// For agents and engines that have just been started to answer.
const AGENT_BOUND: Duration = Duration::from_secs(20);

/// The `lockstep` program.
#[derive(Clone, Debug)]
pub struct Cli {
    program: PathBuf,
}

/// What `lockstep` printed when it refused.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Refusal {
    /// `wrong_input`, `state_forbids`, `not_reachable`, `other`.
    pub kind: String,
    /// The field at fault.
    pub field: Option<String>,
    /// The node that stands in the way.
    pub holder: Option<String>,
    /// For a person.
    pub message: String,
    /// The exit code.
    #[serde(skip)]
    pub exit_code: Option<i32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (exit code {:?}): {}", self.kind, self.exit_code, self.message)
    }
}

impl std::error::Error for Refusal {}

#[derive(Deserialize)]
struct RefusalLine {
    error: Refusal,
}

impl Cli {
    /// The program named by `LOCKSTEP_BIN`, else the one built beside this one.
    pub fn find() -> Result<Self> {
        Ok(Cli { program: built_program("lockstep", "LOCKSTEP_BIN")? })
    }

    /// Runs a command and parses the one JSON value that it prints. A refusal is a [`Refusal`].
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        run_json(Command::new(&self.program), arguments)
    }
}

fn run_json(mut command: Command, arguments: &[&str]) -> Result<Value> {
    command.args(arguments).args(["--output", "json"]);
    let ended = command::run(&mut command, CLI_BOUND)?;
    if ended.status.success() {
        return parse_output(&ended).with_context(|| command::show(&command));
    }
    Err(parse_refusal(&ended).context(command::show(&command)))
}

/// The path of a program of this workspace: from the environment, else beside the running executable or its parent.
pub fn built_program(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("find the running executable")?;
    // Test executables lie in target/PROFILE/deps, programs in target/PROFILE.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("no {name} beside {}: build it first, or set {variable}", own.display()))
}

fn parse_output(ended: &Ended) -> Result<Value> {
    if ended.stdout.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&ended.stdout).with_context(|| format!("parse {:?}", ended.stdout))
}

fn parse_refusal(ended: &Ended) -> anyhow::Error {
    let line = ended.stderr.lines().rev().find_map(|line| serde_json::from_str::<RefusalLine>(line).ok());
    match line {
        Some(RefusalLine { error }) => Refusal { exit_code: ended.status.code(), ..error }.into(),
        None => anyhow!("{ended}"),
    }
}

/// A cluster on this machine that is destroyed when dropped.
pub struct Playground {
    cli: Cli,
    dir: PathBuf,
    nodes: Vec<String>,
    alive: Alive,
    destroy: Option<Undo>,
    // Below: it goes after the programs that run in it.
    networks: Option<Networks>,
}

/// False once the playground is destroyed. Held by whoever starts or ends programs: a signal destroys it beside the thread that
/// drives it, and what that thread starts meanwhile would be left behind.
type Alive = Arc<Mutex<bool>>;

/// How a process of a node is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, until resumed.
    Pause,
    /// A clean shutdown.
    Stop,
}

impl Fault {
    /// The command of `lockstep playground`.
    pub fn verb(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Pause => "pause",
            Fault::Stop => "stop",
        }
    }
}

impl Playground {
    /// Starts `count` nodes (a, b, c...) below `dir`, which must not exist or be empty.
    pub fn start(dir: &Path, count: usize, cleanup: &Cleanup) -> Result<Self> {
        Self::start_with(dir, count, &[], cleanup)
    }

    /// Like [`start`](Self::start); `options` of `playground start` go through as they are.
    pub fn start_with(dir: &Path, count: usize, options: &[&str], cleanup: &Cleanup) -> Result<Self> {
        let (cli, alive) = (Cli::find()?, Alive::new(Mutex::new(true)));
        let undo = {
            let (cli, dir, alive) = (cli.clone(), dir.to_path_buf(), alive.clone());
            cleanup.defer(move || {
                if let Err(error) = destroy(&cli, &dir, &alive) {
                    eprintln!("playground {} is not destroyed: {error:#}", dir.display());
                }
            })
        };
        let dir = dir.to_path_buf();
        let playground = Playground { cli, dir, nodes: names(count), alive, destroy: Some(undo), networks: None };
        let count = count.to_string();
        let arguments = [&["playground", "start", "--nodes", &count], options].concat();
        playground.while_alive(|| playground.run(&arguments))?;
        Ok(playground)
    }

    /// Like [`Playground::start`], each node in a network namespace of its own.
    pub fn start_apart(dir: &Path, count: usize, dedicated: Dedicated, cleanup: &Cleanup) -> Result<Self> {
        // Made first, they go last.
        let networks = Networks::make(&names(count), cleanup)?;
        let mut playground = Self::start(dir, count, cleanup)?;
        // All of them end before one looks for another where that is no longer.
        for node in &playground.nodes {
            playground.disturb(node, Fault::Stop, true)?;
            playground.edit_cluster(node, |cluster| networks.place(cluster, dedicated))?;
        }
        playground.networks = Some(networks);
        for node in &playground.nodes {
            playground.restart(node, true)?;
        }
        Ok(playground)
    }

    /// The networks between its nodes, if those are apart.
    pub fn networks(&self) -> Result<&Networks> {
        self.networks.as_ref().context("the nodes share one network namespace")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of one node.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// The names of its nodes.
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// Runs a command of the playground as a whole.
    pub fn run(&self, arguments: &[&str]) -> Result<Value> {
        let dir = self.dir.to_string_lossy();
        let mut all = vec!["--dir", dir.as_ref()];
        all.extend_from_slice(arguments);
        self.cli.json(&all)
    }

    /// Runs a command at one node.
    pub fn at(&self, node: &str, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["--node", node];
        all.extend_from_slice(arguments);
        self.run(&all)
    }

    fn parse_at<T: DeserializeOwned>(&self, node: &str, arguments: &[&str]) -> Result<T> {
        let value = self.at(node, arguments)?;
        serde_json::from_value(value.clone()).with_context(|| format!("parse {value}"))
    }

    /// Creates a volume; `options` go through as they are.
    pub fn create(&self, node: &str, volume: &str, size: &str, replicas: usize, options: &[&str]) -> Result<()> {
        let replicas = replicas.to_string();
        let mut arguments = vec!["volume", "create", volume, "--size", size, "--replicas", &replicas];
        arguments.extend_from_slice(options);
        self.at(node, &arguments).map(|_| ())
    }

    /// Attaches a volume.
    pub fn attach(&self, node: &str, volume: &str, options: &[&str]) -> Result<Attachment> {
        let mut arguments = vec!["volume", "attach", volume];
        arguments.extend_from_slice(options);
        self.parse_at(node, &arguments)
    }

    /// Detaches a volume.
    pub fn detach(&self, node: &str, volume: &str) -> Result<()> {
        self.at(node, &["volume", "detach", volume]).map(|_| ())
    }

    /// Detaches a volume, unless the node was expelled meanwhile and has nothing to detach.
    pub fn detach_if_attached(&self, node: &str, volume: &str) -> Result<()> {
        match self.detach(node, volume) {
            Err(error) if refusal(&error).is_some_and(|refusal| refusal.kind == "state_forbids") => Ok(()),
            other => other,
        }
    }

    /// What a node says of a volume.
    pub fn status(&self, node: &str, volume: &str) -> Result<VolumeStatus> {
        self.parse_at(node, &["volume", "status", volume])
    }

    /// The state of all processes.
    pub fn processes(&self) -> Result<Vec<NodeProcesses>> {
        let value = self.run(&["playground", "status"])?;
        serde_json::from_value(value.clone()).with_context(|| format!("parse {value}"))
    }

    /// Gives a node another directory for its replicas. Before the first volume only: nothing is moved.
    pub fn set_pool(&self, node: &str, directory: &Path) -> Result<()> {
        self.set_pool_place(node, "directory", directory)
    }

    /// Gives a node a whole device for its replicas.
    pub fn set_pool_device(&self, node: &str, device: &Path) -> Result<()> {
        self.set_pool_place(node, "device", device)
    }

    fn set_pool_place(&self, node: &str, kind: &str, place: &Path) -> Result<()> {
        let place = toml::Value::String(place.to_string_lossy().into_owned());
        self.set_this(node, "pool", Some(toml::Value::Table([(kind.to_owned(), place)].into_iter().collect())))
    }

    /// Gives a node a way to the API server, or takes it away.
    pub fn set_kubeconfig(&self, node: &str, file: Option<&Path>) -> Result<()> {
        let file = file.map(|file| toml::Value::String(file.to_string_lossy().into_owned()));
        self.set_this(node, "kubeconfig", file)
    }

    /// Changes what a node's cluster file says of the node itself, while it is stopped.
    fn set_this(&self, node: &str, key: &str, value: Option<toml::Value>) -> Result<()> {
        self.disturb(node, Fault::Stop, true)?;
        self.edit_cluster(node, |cluster| {
            let this = cluster.get_mut("this").and_then(toml::Value::as_table_mut);
            let this = this.with_context(|| format!("the file of {node} says nothing of its own node"))?;
            match value {
                Some(value) => this.insert(key.to_owned(), value),
                None => this.remove(key),
            };
            Ok(())
        })?;
        self.restart(node, true)
    }

    fn cluster(&self, node: &str) -> Result<toml::Table> {
        let file = self.node_dir(node).join("cluster.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        text.parse().with_context(|| format!("parse {}", file.display()))
    }

    /// A node that runs reads its file when it is started again.
    fn edit_cluster(&self, node: &str, edit: impl FnOnce(&mut toml::Table) -> Result<()>) -> Result<()> {
        let mut cluster = self.cluster(node)?;
        edit(&mut cluster)?;
        let file = self.node_dir(node).join("cluster.toml");
        fs::write(&file, cluster.to_string()).with_context(|| format!("write {}", file.display()))
    }

    /// Where a node has its replicas.
    pub fn pool_dir(&self, node: &str) -> Result<PathBuf> {
        let this = self.this_node(node)?;
        let directory = this.get("pool").and_then(|pool| pool.get("directory")).and_then(toml::Value::as_str);
        directory.map(PathBuf::from).with_context(|| format!("{node} has no directory as its pool"))
    }

    /// A metric of a node's engine, by its name with its labels.
    pub fn metric(&self, node: &str, name: &str) -> Result<u64> {
        let port = self.this_node(node)?.get("metrics_port").and_then(toml::Value::as_integer);
        let port = u16::try_from(port.with_context(|| format!("{node} serves no metrics"))?)?;
        let mut connection = TcpStream::connect(("127.0.0.1", port)).context("connect to the metrics")?;
        connection.set_read_timeout(Some(CLI_BOUND)).context("bound the answer")?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").context("ask for the metrics")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).context("read the metrics")?;
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.with_context(|| format!("{node} has no metric {name}"))?;
        value.trim().parse().with_context(|| format!("{name} is {value:?}"))
    }

    /// What a node's cluster file says of the node itself.
    fn this_node(&self, node: &str) -> Result<toml::Table> {
        match self.cluster(node)?.remove("this") {
            Some(toml::Value::Table(this)) => Ok(this),
            _ => bail!("the file of {node} says nothing of its own node"),
        }
    }

    /// Disturbs a node.
    pub fn disturb(&self, node: &str, fault: Fault, whole_node: bool) -> Result<()> {
        self.playground_verb(fault.verb(), node, whole_node)
    }

    /// Lets a paused node go on.
    pub fn resume(&self, node: &str, whole_node: bool) -> Result<()> {
        self.playground_verb("resume", node, whole_node)
    }

    /// Starts what does not run on a node.
    pub fn restart(&self, node: &str, whole_node: bool) -> Result<()> {
        self.playground_verb("restart", node, whole_node)
    }

    fn playground_verb(&self, verb: &str, node: &str, whole_node: bool) -> Result<()> {
        let dir = self.dir.to_string_lossy();
        let mut arguments = vec!["--dir", dir.as_ref(), "playground", verb, node];
        if whole_node {
            arguments.push("--whole-node");
        }
        // Programs run where they are started.
        let command = match &self.networks {
            Some(networks) => networks.command_in(node, &self.cli.program),
            None => Command::new(&self.cli.program),
        };
        self.while_alive(|| run_json(command, &arguments)).map(|_| ())
    }

    fn while_alive<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(*alive, "the playground is destroyed");
        work()
    }

    /// Waits until every node's agent and engine answer.
    pub fn wait_answers(&self) -> Result<()> {
        for node in self.nodes() {
            wait::until_ok(&format!("{node} answers"), AGENT_BOUND, || self.at(node, &["volume", "list"]).map(Some))?;
        }
        Ok(())
    }

    /// Waits until every one of these nodes sees every replica in sync and nothing joining.
    pub fn wait_whole(&self, nodes: &[String], volume: &str) -> Result<()> {
        for node in nodes {
            wait::until_ok(&format!("all replicas of {volume} in sync, as {node} sees it"), HEAL_BOUND, || {
                let status = self.status(node, volume)?;
                if status.is_whole() {
                    return Ok(Some(()));
                }
                bail!("in_sync {:?}, joining {:?}, state {}", status.in_sync, status.joining, status.state)
            })?;
        }
        Ok(())
    }

    /// Destroys it now, and says what went wrong (dropping only prints it).
    pub fn destroy(mut self) -> Result<()> {
        let result = destroy(&self.cli, &self.dir, &self.alive);
        if let Some(undo) = self.destroy.take()
            && result.is_ok()
        {
            undo.forget();
        }
        result
    }
}

fn names(count: usize) -> Vec<String> {
    ["a", "b", "c", "d", "e"].iter().take(count).map(ToString::to_string).collect()
}

fn destroy(cli: &Cli, dir: &Path, alive: &Alive) -> Result<()> {
    let mut alive = alive.lock().unwrap_or_else(PoisonError::into_inner);
    *alive = false;
    if !dir.exists() {
        return Ok(());
    }
    cli.json(&["--dir", &dir.to_string_lossy(), "playground", "destroy"]).map(|_| ())
}

/// The refusal inside an error, if the command was refused.
pub fn refusal(error: &anyhow::Error) -> Option<&Refusal> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::{parse_refusal, refusal};
    use crate::command;

    #[test]
    fn refusal_is_found_among_other_lines() {
        let script = r#"echo note >&2; echo '{"error":{"kind":"state_forbids","holder":"a","message":"held by a"}}' >&2; exit 3"#;
        let ended = command::run(&mut command::program("sh", ["-c", script]), command::PROGRAM_BOUND).unwrap();
        let error = parse_refusal(&ended).context("volume attach");
        let found = refusal(&error).unwrap();
        assert_eq!(
            (found.kind.as_str(), found.holder.as_deref(), found.exit_code),
            ("state_forbids", Some("a"), Some(3))
        );
    }
}
