//! One node of a playground: its programs, started and ended by their records.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_proto::node::v1::engine_client::EngineClient;
use lockstep_proto::node::v1::node_client::NodeClient;
use lockstep_proto::node::v1::{GetNodeRequest, Pool, ShutdownRequest};
use nix::sys::signal::Signal;

use super::{KILL_WITHIN, NodeState, Pids, READY_WITHIN, STOP_WITHIN, Verb, host};
use crate::failure::Failure;
use crate::process::{self, Observed, ProcessError, Record};
use crate::rpc;
use crate::state_dir::{Program, StateDir};

/// How often a wait for readiness looks again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Lines of a program's log that an error shows.
const LOG_LINES: usize = 5;

/// One node of a playground.
#[derive(Debug)]
pub struct PlaygroundNode {
    name: String,
    state: StateDir,
}

impl PlaygroundNode {
    pub(super) fn new(dir: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), state: StateDir::new(dir.join(name)) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state directory.
    #[must_use]
    pub const fn state(&self) -> &StateDir {
        &self.state
    }

    /// What its processes do now.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn observe(&self) -> Result<NodeState, Failure> {
        let look = |program| -> Result<(Observed, Option<i32>), Failure> {
            let Some(record) = self.record(program)? else { return Ok((Observed::Stopped, None)) };
            let observed = record.observe().map_err(process_failure)?;
            Ok((observed, observed.is_alive().then(|| record.pid())))
        };
        let [holder, supervisor, worker, agent] =
            [look(Program::Holder)?, look(Program::Supervisor)?, look(Program::Worker)?, look(Program::Agent)?];
        Ok(NodeState {
            node: self.name.clone(),
            holder: holder.0,
            supervisor: supervisor.0,
            worker: worker.0,
            agent: agent.0,
            pids: Pids { holder: holder.1, supervisor: supervisor.1, worker: worker.1, agent: agent.1 },
        })
    }

    /// Does something to the node: to its worker, or to all its processes. Ends when it is done.
    ///
    /// # Errors
    /// The state forbids it, or it cannot be done.
    pub fn disturb(&self, verb: Verb, whole_node: bool) -> Result<(), Failure> {
        let programs: &[Program] = if whole_node { &Program::ALL } else { &[Program::Worker] };
        match verb {
            // Nobody starts the worker again here: its devices must not wait for that.
            Verb::Kill if !whole_node => self.kill(&[Program::Worker, Program::Holder]),
            Verb::Kill => self.kill(programs),
            Verb::Pause => self.pause(programs),
            Verb::Resume => self.resume(programs),
            Verb::Stop => self.stop(),
            Verb::Restart => self.restart(),
        }
    }

    /// Whole nodes die like a machine: the supervisor first, so that it reports nothing.
    fn kill(&self, programs: &[Program]) -> Result<(), Failure> {
        let records = self.records(programs)?;
        for record in &records {
            record.signal(Signal::SIGKILL).map_err(process_failure)?;
        }
        records.iter().try_for_each(|record| record.wait_for_exit(KILL_WITHIN)).map_err(process_failure)
    }

    fn pause(&self, programs: &[Program]) -> Result<(), Failure> {
        let records = self.records(programs)?;
        if records.is_empty() {
            return Err(Failure::state_forbids(format!("node {}: nothing runs that could be paused", self.name)));
        }
        for record in &records {
            record.signal(Signal::SIGSTOP).map_err(process_failure)?;
        }
        records.iter().try_for_each(|record| self.wait_for(record, |observed| observed != Observed::Running))
    }

    fn resume(&self, programs: &[Program]) -> Result<(), Failure> {
        let records = self.records(programs)?;
        for record in &records {
            record.signal(Signal::SIGCONT).map_err(process_failure)?;
        }
        records.iter().try_for_each(|record| self.wait_for(record, |observed| observed != Observed::Paused))
    }

    /// The whole node ends, and its devices with it. The supervisor passes the order on; a worker that lost its supervisor is told itself.
    fn stop(&self) -> Result<(), Failure> {
        self.check_not_paused()?;
        self.end_devices()?;
        let told = if self.records(&[Program::Supervisor])?.is_empty() { Program::Worker } else { Program::Supervisor };
        for programs in [&[told, Program::Worker][..], &[Program::Agent][..], &[Program::Holder][..]] {
            let records = self.records(programs)?;
            if let Some(first) = records.first() {
                first.signal(Signal::SIGTERM).map_err(process_failure)?;
            }
            records.iter().try_for_each(|record| record.wait_for_exit(STOP_WITHIN)).map_err(process_failure)?;
        }
        // Stopped as planned: no record that would say "exited".
        for program in Program::ALL {
            match std::fs::remove_file(self.state.pid_file(program)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(host("remove a process record")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells the worker that no other will come soon: what is attached ends in order.
    fn end_devices(&self) -> Result<(), Failure> {
        if self.records(&[Program::Worker])?.is_empty() {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let told = runtime.map_err(host("start a runtime"))?.block_on(async {
            let mut engine = EngineClient::new(rpc::unix_channel(self.state.engine_socket()));
            let request = ShutdownRequest { host_goes_down: true };
            rpc::answer("its engine", STOP_WITHIN, engine.shutdown(request)).await
        });
        // A worker that has only just started, or ends already, is told by the signal alone.
        if let Err(failure) = told {
            tracing::debug!(%failure, "engine not told");
        }
        Ok(())
    }

    fn restart(&self) -> Result<(), Failure> {
        self.check_not_paused()?;
        self.start_missing()?;
        self.wait_ready(READY_WITHIN)
    }

    fn check_not_paused(&self) -> Result<(), Failure> {
        let state = self.observe()?;
        match Program::ALL.into_iter().find(|program| state.of(*program) == Observed::Paused) {
            None => Ok(()),
            Some(program) => {
                let (name, program) = (&self.name, program.name());
                Err(Failure::state_forbids(format!("node {name}: its {program} is paused; resume it first")))
            }
        }
    }

    /// Starts what does not run.
    pub(super) fn start_missing(&self) -> Result<(), Failure> {
        let state = self.observe()?;
        // First, so that the engine finds it.
        if !state.holder.is_alive() {
            self.spawn("lockstep-holder", Program::Holder)?;
        }
        match (state.supervisor.is_alive(), state.worker.is_alive()) {
            // A supervisor that finds a worker running watches over that one.
            (false, _) => self.spawn_engine()?,
            (true, false) => {
                for record in self.records(&[Program::Supervisor])? {
                    record.signal(Signal::SIGUSR1).map_err(process_failure)?;
                }
            }
            (true, true) => {}
        }
        if !state.agent.is_alive() {
            self.spawn_agent()?;
        }
        Ok(())
    }

    fn spawn_engine(&self) -> Result<(), Failure> {
        self.spawn("lockstep-engine", Program::Supervisor)
    }

    fn spawn_agent(&self) -> Result<(), Failure> {
        self.spawn("lockstep-node", Program::Agent)
    }

    fn spawn(&self, file: &str, program: Program) -> Result<(), Failure> {
        let path = program_path(file)?;
        let log = self.state.log_file(program);
        let open = || OpenOptions::new().create(true).append(true).open(&log);
        let log_failure = || host(format!("open {}", log.display()));
        let mut command = Command::new(&path);
        if program != Program::Holder {
            command.args(["--node", &self.name]);
        }
        command
            .arg("--state-dir")
            .arg(self.state.path())
            .stdin(Stdio::null())
            .stdout(open().map_err(log_failure())?)
            .stderr(open().map_err(log_failure())?)
            // Of its own group: what interrupts the command line does not reach it. In no directory that could be removed.
            .process_group(0)
            .current_dir("/");
        let child = command.spawn().map_err(host(format!("start {}", path.display())))?;
        self.wait_recorded(program, child)
    }

    /// Waits until the program has written its record, so that it can be found from now on.
    fn wait_recorded(&self, program: Program, mut child: Child) -> Result<(), Failure> {
        let start = Instant::now();
        let pid = i32::try_from(child.id()).expect("the kernel's process ids are positive i32");
        loop {
            if self.record(program)?.is_some_and(|record| record.pid() == pid) {
                return Ok(());
            }
            if let Some(status) = child.try_wait().map_err(host("wait for a program"))? {
                return Err(self.explain(program, &format!("ended at once ({status})")));
            }
            if start.elapsed() > READY_WITHIN {
                return Err(self.explain(program, "does not start"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until the agent answers and says that the engine is ready.
    pub(super) fn wait_ready(&self, longest: Duration) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(host("start a runtime"))?.block_on(self.look_until_ready(longest))
    }

    async fn look_until_ready(&self, longest: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        let mut client = NodeClient::new(rpc::unix_channel(self.state.node_socket()));
        let mut reason;
        loop {
            match rpc::answer("its agent", longest, client.get_node(GetNodeRequest {})).await {
                // A pool that is refused is an answer too: the node votes without it and says why.
                Ok(node) if node.engine_ready && node.pool.as_ref().is_none_or(is_settled) => return Ok(()),
                Ok(node) if !node.engine_ready => reason = node.engine_reason,
                Ok(node) => reason = node.pool.map(|pool| pool.reason).unwrap_or_default(),
                Err(failure) => reason = failure.message,
            }
            let state = self.observe()?;
            for program in Program::ALL {
                let waits_for_supervisor = program == Program::Worker && state.worker == Observed::Stopped;
                if !state.of(program).is_alive() && !waits_for_supervisor && start.elapsed() > LOOK_EVERY * 10 {
                    return Err(self.explain(program, "has ended"));
                }
            }
            if start.elapsed() > longest {
                return Err(Failure::not_reachable(format!("node {} is not ready: {reason}", self.name)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends everything at once, for the end of the playground.
    pub(super) fn end_all(&self) -> Result<(), Failure> {
        self.kill(&Program::ALL)
    }

    fn wait_for(&self, record: &Record, reached: impl Fn(Observed) -> bool) -> Result<(), Failure> {
        let start = Instant::now();
        while !reached(record.observe().map_err(process_failure)?) {
            if start.elapsed() > KILL_WITHIN {
                return Err(Failure::other(format!("node {}: process {} does not follow", self.name, record.pid())));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn record(&self, program: Program) -> Result<Option<Record>, Failure> {
        Record::read(&self.state.pid_file(program)).map_err(process_failure)
    }

    fn records(&self, programs: &[Program]) -> Result<Vec<Record>, Failure> {
        let mut alive = Vec::new();
        for program in programs {
            if let Some(record) = self.record(*program)?
                && record.observe().map_err(process_failure)?.is_alive()
            {
                alive.push(record);
            }
        }
        Ok(alive)
    }

    fn explain(&self, program: Program, what: &str) -> Failure {
        let log = match program {
            Program::Worker => self.state.log_file(Program::Supervisor),
            other => self.state.log_file(other),
        };
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        // What went wrong says so; without such a line the last ones must do.
        let telling = |line: &&str| line.contains("ERROR") || line.contains("panicked");
        let mut lines: Vec<&str> = text.lines().filter(telling).collect();
        if lines.is_empty() {
            lines = text.lines().collect();
        }
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("; ");
        Failure::other(format!("node {}: its {} {what}: {last}", self.name, program.name()))
    }
}

fn is_settled(pool: &Pool) -> bool {
    pool.ready || !pool.reason.is_empty()
}

fn process_failure(error: ProcessError) -> Failure {
    match error {
        process::ProcessError::WaitForExit { .. } => Failure::not_reachable(error.to_string()),
        _ => Failure::of_host("look after a process", &error),
    }
}

/// A program beside this one.
fn program_path(file: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(host("find this program"))?;
    let beside = own.with_file_name(file);
    if beside.is_file() {
        return Ok(beside);
    }
    // Tests run from the directory below the one that has the programs.
    let above = own.parent().and_then(Path::parent).map(|dir| dir.join(file)).filter(|path| path.is_file());
    above.ok_or_else(|| Failure::other(format!("{} is not there: the programs belong together", beside.display())))
}
