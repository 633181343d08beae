//! One node: a supervisor with its engine, an agent, and kubelet's directory. All of it on an address of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lockstep_node::host::{loops, mounts};
use lockstep_node::process::Record;
use lockstep_processes::cleanup::Cleanup;
use lockstep_processes::command::wait_bounded;
use lockstep_processes::process::Process;
use lockstep_processes::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For a program to end that was told to.
const END_BOUND: Duration = Duration::from_secs(60);

/// Long enough for everything that a node does by itself.
pub const BOUND: Duration = Duration::from_secs(90);

/// A node.
pub struct TestNode {
    pub name: String,
    pub dir: PathBuf,
    address: String,
    kubeconfig: PathBuf,
    key_file: PathBuf,
    agent: Process,
    supervisor: Mutex<Option<Child>>,
}

impl TestNode {
    /// Nothing runs yet.
    pub fn new(home: &Path, name: &str, address: String, kubeconfig: &Path, cleanup: &Cleanup) -> Result<Self> {
        // Short: the paths of sockets below it are bounded.
        let short = name.split('.').next().unwrap_or(name);
        let dir = home.join(short);
        std::fs::create_dir_all(dir.join("kubelet/plugins_registry")).context("make kubelet's directory")?;
        let key_file = home.join("key");
        // Other nodes read it already.
        if !key_file.exists() {
            std::fs::write(&key_file, format!("{}\n", "5a".repeat(32))).context("write the key")?;
        }
        Ok(Self {
            name: name.to_owned(),
            address,
            kubeconfig: kubeconfig.to_owned(),
            key_file,
            agent: Process::new("lockstep-node", dir.join("agent.log"), cleanup),
            supervisor: Mutex::default(),
            dir,
        })
    }

    /// Where its replicas are.
    pub fn pool(&self) -> PathBuf {
        self.dir.join("pool")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn csi_socket(&self) -> PathBuf {
        self.dir.join("kubelet/plugins/csi.lockstep.storage/csi.sock")
    }

    /// A staged volume's device.
    pub fn device(&self, volume: &str) -> PathBuf {
        let identity = std::fs::read_to_string(self.state().join("identity.json")).unwrap_or_default();
        let identity: serde_json::Value = serde_json::from_str(&identity).unwrap_or_default();
        let id = identity["nodeId"].as_u64().unwrap_or_default();
        self.dir.join("dev").join(format!("{}.{id:08x}", self.name)).join("csi.d").join(volume)
    }

    pub fn health(&self) -> String {
        format!("{}:7504", self.address)
    }

    pub fn start(&self) -> Result<()> {
        self.start_engine()?;
        self.start_agent()
    }

    pub fn start_agent(&self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep-node"));
        command
            .arg("kubernetes")
            .args(["--node", &self.name, "--address", &self.address, "--metrics-port", "0", "--loops", "1"])
            .args(["--health-address", &self.health()])
            .arg("--state-dir")
            .arg(self.state())
            .arg("--kubelet-dir")
            .arg(self.dir.join("kubelet"))
            .arg("--volume-dev-dir")
            .arg(self.dir.join("dev"))
            .arg("--key-file")
            .arg(&self.key_file)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig);
        self.agent.start(&mut command)
    }

    pub fn kill_agent(&self) -> Result<()> {
        self.agent.kill()
    }

    /// SIGTERM, as a pod's end is.
    pub fn end_agent(&self) -> Result<()> {
        let pid = self.agent.pid()?;
        self.agent.signal(Signal::SIGTERM)?;
        wait::until_true("the agent has ended", END_BOUND, || Ok(!is_alive(pid)))?;
        self.agent.kill()
    }

    pub fn start_engine(&self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("engine.log"))?;
        let child = Command::new(env!("CARGO_BIN_EXE_lockstep-engine"))
            .arg("--state-dir")
            .arg(self.state())
            .args(["--node", &self.name, "--restart"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the engine")?;
        *self.supervisor() = Some(child);
        Ok(())
    }

    fn supervisor(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine proper.
    pub fn worker(&self) -> Result<i32> {
        let record = Record::read(&self.state().join("worker.pid"))?.context("no worker runs")?;
        Ok(record.pid())
    }

    /// Like a machine that loses its power: nobody reports anything.
    pub fn kill_engine(&self) -> Result<()> {
        let worker = self.worker();
        if let Some(mut child) = self.supervisor().take() {
            child.kill()?;
            child.wait()?;
        }
        if let Ok(worker) = worker
            && is_alive(worker)
        {
            kill(Pid::from_raw(worker), Signal::SIGKILL)?;
            wait::until_true("the worker is gone", END_BOUND, || Ok(!is_alive(worker)))?;
        }
        Ok(())
    }

    pub fn kill(&self) -> Result<()> {
        self.kill_agent()?;
        self.kill_engine()
    }

    /// The command line in the agent's pod.
    pub fn lockstep(&self, words: &[&str]) -> Result<std::process::Output> {
        let socket = self.state().join("node.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command
            .env_remove("LOCKSTEP_DIR")
            .env_remove("LOCKSTEP_NODE")
            .arg("--node")
            .arg(socket)
            .arg("volume")
            .args(words);
        command.output().context("run lockstep")
    }

    /// Every volume leaves as planned.
    fn end_engine(&self) -> Result<()> {
        let Some(mut child) = self.supervisor().take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        if wait_bounded(&mut child, END_BOUND)?.is_none() {
            bail!("the engine of {} does not end", self.name);
        }
        Ok(())
    }

    fn clean(&self) -> Result<()> {
        self.agent.kill()?;
        if self.end_engine().is_err() {
            self.kill_engine()?;
        }
        let left = loops::observe_under(&self.dir)?;
        let mounted = mounts::observe_mounts()?;
        for mount in mounted.iter().rev().filter(|mount| mount.point.starts_with(&self.dir)) {
            mounts::unmount_lazily(&mount.point)?;
        }
        for device in &left {
            loops::release(device)?;
        }
        Ok(())
    }

    /// Everything that the node's programs said, for a test that failed.
    pub fn said(&self) -> String {
        let end = |file: &str| {
            let text = std::fs::read_to_string(self.dir.join(file)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        format!("--- {} agent\n{}\n--- {} engine\n{}", self.name, end("agent.log"), self.name, end("engine.log"))
    }

    /// No file of a replica is left in the pool.
    pub fn ensure_empty_pool(&self) -> Result<()> {
        let names = std::fs::read_dir(self.pool())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<String>>>()?;
        names.retain(|name| name != "lockstep-pool.toml");
        ensure!(names.is_empty(), "left in the pool of {}: {names:?}", self.name);
        let memories = self.state().join("engine/memory");
        if memories.is_dir() {
            ensure!(std::fs::read_dir(&memories)?.next().is_none(), "left in {}", memories.display());
        }
        ensure!(loops::observe_under(&self.dir)?.is_empty(), "loop devices of {} are left", self.name);
        Ok(())
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("LOCKSTEP_TEST_LOGS").is_some() {
            eprintln!("{}", self.said());
        }
        if let Err(error) = self.clean() {
            eprintln!("node {}: {error:#}", self.name);
        }
    }
}

/// True while the process exists and is not a zombie.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}
