//! One node: an engine with its supervisor, an agent, and kubelet's directory, on an address of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use lockstep_e2e::command::program;
use lockstep_e2e::playground::built_program;
use lockstep_processes::cleanup::{Cleanup, Undo};
use lockstep_processes::process::Process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A node.
pub struct TestNode {
    pub name: String,
    pub dir: PathBuf,
    address: String,
    // Dropped in order: the programs before what they leave.
    agent: Process,
    engine: Process,
    _devices: Undo,
}

impl TestNode {
    /// Starts its programs.
    pub fn start(home: &Path, name: &str, address: &str, kubeconfig: &Path, cleanup: &Cleanup) -> Result<Self> {
        // Short: the paths of sockets below it are bounded.
        let dir = home.join(name);
        std::fs::create_dir_all(dir.join("kubelet/plugins_registry")).context("make kubelet's directory")?;
        let key_file = dir.join("key");
        std::fs::write(&key_file, format!("{}\n", "5a".repeat(32))).context("write the key")?;
        let devices = {
            let dir = dir.clone();
            cleanup.defer(move || release(&dir))
        };
        let node = Self {
            name: name.to_owned(),
            address: address.to_owned(),
            agent: Process::new("lockstep-node", dir.join("agent.log"), cleanup),
            engine: Process::new("lockstep-engine", dir.join("engine.log"), cleanup),
            _devices: devices,
            dir,
        };
        node.engine.start(&mut node.engine_command()?)?;
        node.agent.start(&mut node.agent_command(&key_file, kubeconfig)?)?;
        Ok(node)
    }

    fn engine_command(&self) -> Result<Command> {
        let mut command = Command::new(built_program("lockstep-engine", "LOCKSTEP_ENGINE_BIN")?);
        command.arg("--state-dir").arg(self.state()).args(["--node", &self.name, "--restart"]);
        Ok(command)
    }

    fn agent_command(&self, key_file: &Path, kubeconfig: &Path) -> Result<Command> {
        let mut command = Command::new(built_program("lockstep-node", "LOCKSTEP_NODE_BIN")?);
        command
            .arg("kubernetes")
            .args(["--node", &self.name, "--address", &self.address, "--metrics-port", "0", "--loops", "1"])
            .args(["--health-address", &format!("{}:7504", self.address)])
            .arg("--state-dir")
            .arg(self.state())
            .arg("--kubelet-dir")
            .arg(self.dir.join("kubelet"))
            .arg("--volume-dev-dir")
            .arg(self.dir.join("dev"))
            .arg("--key-file")
            .arg(key_file)
            .arg("--kubeconfig")
            .arg(kubeconfig);
        Ok(command)
    }

    /// Where its replicas are.
    pub fn pool(&self) -> PathBuf {
        self.dir.join("pool")
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where kubelet calls.
    pub fn csi_socket(&self) -> PathBuf {
        self.dir.join("kubelet/plugins/csi.lockstep.storage/csi.sock")
    }

    /// An error if one of its programs ended by itself.
    pub fn ensure_running(&self) -> Result<()> {
        self.agent.ensure_running()?;
        self.engine.ensure_running()
    }

    /// The end of what its programs said.
    pub fn said(&self) -> String {
        format!(
            "--- {} agent\n{}\n--- {} engine\n{}",
            self.name,
            self.agent.log_end(),
            self.name,
            self.engine.log_end()
        )
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // The worker outlives a supervisor that is killed.
        let worker = std::fs::read_to_string(self.state().join("worker.pid")).unwrap_or_default();
        for process in [&self.agent, &self.engine] {
            if let Err(error) = process.kill() {
                eprintln!("node {}: {error:#}", self.name);
            }
        }
        if let Some(pid) = worker.lines().next().and_then(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Takes away the mounts below a directory, and the loop devices over files there.
fn release(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    for point in points.iter().rev().filter(|point| Path::new(point).starts_with(dir)) {
        let _ = program("umount", ["--lazy", point]).status();
    }
    for name in loops_of(dir).unwrap_or_default() {
        let _ = program("losetup", ["--detach", &format!("/dev/{name}")]).status();
    }
}

/// Loop devices over files below a directory, and those of engines whose state is there: their files are named after it, with other slashes,
/// and are mounted nowhere.
pub fn loops_of(dir: &Path) -> Result<Vec<String>> {
    let named = dir.to_string_lossy().replace('/', "!");
    let mut names = Vec::new();
    for device in std::fs::read_dir("/sys/block")? {
        let device = device?;
        let backing = std::fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        let backing = backing.trim();
        if Path::new(backing).starts_with(dir) || backing.trim_start_matches('/').starts_with(&named) {
            names.push(device.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}
