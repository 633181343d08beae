//! A playground that is driven by the command line and gone when the test is.
#![allow(clippy::panic, reason = "tests fail by panicking; this module has none of the attributes that say so")]
// Each test program uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything may take that a test waits for.
const BOUND: Duration = Duration::from_secs(60);

/// How often a wait looks again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// The JSON value of a command that succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error of a command that failed with this exit code.
    pub fn error(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{self:?}");
        let line = self.stderr.lines().last().unwrap_or_default();
        let mut value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        value["error"].take()
    }
}

/// A directory for one playground.
pub struct Ground {
    pub dir: PathBuf,
    // Removed after the playground, whose directory lies in it.
    home: tempfile::TempDir,
}

impl Ground {
    /// A place without anything.
    pub fn empty() -> Self {
        let home = tempfile::Builder::new().prefix("lockstep-node-").tempdir().expect("a directory");
        Self { dir: home.path().join("p"), home }
    }

    /// A playground that runs.
    pub fn start(nodes: usize) -> Self {
        let ground = Self::empty();
        ground.json(&["playground", "start", "--nodes", &nodes.to_string()]);
        ground
    }

    /// A directory beside the playground.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// Runs `lockstep` with JSON output.
    pub fn run(&self, arguments: &[&str]) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command.env_remove("LOCKSTEP_DIR").env_remove("LOCKSTEP_NODE");
        let output = command.arg("--dir").arg(&self.dir).args(arguments).args(["--output", "json"]).output();
        answer(output.expect("the program runs"))
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        self.run(arguments).json()
    }

    /// What `playground status` says of one node.
    pub fn processes(&self, node: &str) -> Value {
        let all = self.json(&["playground", "status"]);
        let found = all.as_array().and_then(|nodes| nodes.iter().find(|state| state["node"] == node));
        found.cloned().unwrap_or_else(|| panic!("no node {node} in {all}"))
    }

    pub fn pid(&self, node: &str, program: &str) -> i64 {
        let state = self.processes(node);
        state["pids"][program].as_i64().unwrap_or_else(|| panic!("no {program} in {state}"))
    }

    pub fn names(&self, node: &str) -> Vec<String> {
        let list = self.json(&["--node", node, "volume", "list"]);
        let name = |volume: &Value| volume["volume"].as_str().expect("a name").to_owned();
        list.as_array().expect("an array").iter().map(name).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.dir.exists() {
            let answer = self.run(&["playground", "destroy"]);
            if answer.code != 0 && !std::thread::panicking() {
                panic!("playground is not destroyed: {answer:?}");
            }
        }
    }
}

pub fn answer(output: Output) -> Answer {
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for a state.
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < BOUND, "not reached: {what}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// True while the process exists and is not a zombie.
pub fn is_alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

/// Sends a signal to a process that the test has looked up in its own playground.
pub fn signal(pid: i64, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process id"));
    nix::sys::signal::kill(pid, signal).expect("it is there");
}

/// Loop devices whose file lies (or lay) under `dir`.
pub fn loops_under(dir: &Path) -> Vec<String> {
    lockstep_node::host::loops::observe_under(dir).expect("readable").into_iter().map(|device| device.name).collect()
}

/// Mounts under `dir`.
pub fn mounts_under(dir: &Path) -> Vec<PathBuf> {
    let mounts = lockstep_node::host::mounts::observe_mounts().expect("readable");
    mounts.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(dir)).collect()
}
