//! The supervisor: starts the worker, waits, tells the peers when it is over.
//!
//! ```text
//! SIGTERM, SIGINT   passed on to the worker; when that has left and ended, the supervisor ends
//! SIGUSR1           starts a worker that is not running
//! SIGCHLD           the worker's process is over: report it, start another if it crashed and `--restart` says so
//! ```
//!
//! A supervisor that dies leaves its worker running. The next one finds the worker's lock held and watches over that worker
//! by waiting for its lock.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::{Ended, EngineOptions, Place, engine_port};
use crate::host::lock;
use crate::process::{self, Record};
use crate::state_dir::Program;

/// How soon a worker that crashed is started again: its devices wait.
const START_AGAIN: Duration = Duration::from_millis(100);
/// So many crashes within this time are bad luck. Beyond it each doubles the wait: what crashes always must not fill the disk with logs.
const CRASHES_UNPUNISHED: u32 = 6;
const CRASHES_WITHIN: Duration = Duration::from_secs(60);
const START_AGAIN_LATEST: Duration = Duration::from_secs(5);

/// The worker, as far as the supervisor can reach it.
enum Worker {
    None,
    /// Started by this supervisor.
    Child {
        child: Child,
    },
    /// Started by a predecessor.
    Adopted {
        record: Record,
    },
}

struct Supervisor {
    options: EngineOptions,
    place: Place,
    worker: Worker,
    /// It was told to end, so a worker's end is planned.
    ending: bool,
    /// When the worker crashed, lately.
    crashes: Vec<Instant>,
}

/// Runs the supervisor until it is told to end.
///
/// # Errors
/// What keeps it from starting, or a worker that did not end well when it was told to.
pub fn run(options: &EngineOptions) -> anyhow::Result<()> {
    // Blocked before any thread starts, so that they are waited for here and nowhere else. The worker inherits that, and
    // unblocks them again.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGUSR1] {
        signals.add(signal);
    }
    signals.thread_block().context("block signals")?;

    let place = options.place()?;
    let Some(_lock) = lock::try_lock(&place.state.path().join("supervisor.lock"))? else {
        bail!("another supervisor runs with the state directory {}", place.state.path().display());
    };
    let pid_file = place.state.pid_file(Program::Supervisor);
    let mut supervisor =
        Supervisor { options: options.clone(), place, worker: Worker::None, ending: false, crashes: Vec::new() };
    supervisor.start_or_adopt()?;
    Record::of_self()?.write(&pid_file)?;
    let ended = supervisor.follow(&signals);
    process::forget_self(&pid_file);
    ended
}

impl Supervisor {
    fn follow(&mut self, signals: &SigSet) -> anyhow::Result<()> {
        loop {
            match signals.wait().context("wait for signals")? {
                Signal::SIGCHLD => {
                    if let Some(ended) = self.on_worker_end()? {
                        return ended;
                    }
                }
                Signal::SIGUSR1 if !self.ending => {
                    // It may come before the news that the worker has ended: asked for now, it would be lost.
                    if let Some(ended) = self.on_worker_end()? {
                        return ended;
                    }
                    self.start_or_adopt()?;
                }
                Signal::SIGUSR1 => {}
                _ => {
                    self.ending = true;
                    match &self.worker {
                        Worker::None => return Ok(()),
                        Worker::Child { child, .. } => {
                            // The child is not waited for yet: its process id is still its own.
                            let pid = i32::try_from(child.id()).context("process id")?;
                            kill(Pid::from_raw(pid), Signal::SIGTERM).context("tell the worker to end")?;
                        }
                        Worker::Adopted { record } => {
                            record.signal(Signal::SIGTERM).context("tell the worker to end")?;
                        }
                    }
                }
            }
        }
    }

    fn start_or_adopt(&mut self) -> anyhow::Result<()> {
        if !matches!(self.worker, Worker::None) {
            return Ok(());
        }
        let lock_path = self.place.state.worker_lock();
        let record = Record::read(&self.place.state.pid_file(Program::Worker)).unwrap_or(None);
        // A worker of a predecessor: its process may also be over, with its last disk writes still under way.
        if lock::try_lock(&lock_path)?.is_none()
            && let Some(record) = record.filter(|record| record.observe().is_ok_and(process::Observed::is_alive))
        {
            tracing::info!(pid = record.pid(), "worker adopted");
            self.worker = Worker::Adopted { record };
            wake_when_free(lock_path);
            return Ok(());
        }
        self.start()
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let own = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(own);
        command.arg("worker").arg("--state-dir").arg(self.place.state.path()).args(["--node", &self.options.node]);
        if let Some(config) = &self.options.config {
            command.arg("--config").arg(config);
        }
        if let Some(holder) = &self.options.holder {
            command.arg("--holder").arg(holder);
        }
        let child = command.spawn().context("start the worker")?;
        Record::of_child(child.id())?.write(&self.place.state.pid_file(Program::Worker))?;
        tracing::info!(pid = child.id(), "worker started");
        self.worker = Worker::Child { child };
        Ok(())
    }

    /// Gives the supervisor's own end, if it comes with the worker's.
    fn on_worker_end(&mut self) -> anyhow::Result<Option<anyhow::Result<()>>> {
        let mut handed_over = false;
        let (planned, status) = match &mut self.worker {
            Worker::None => return Ok(None),
            Worker::Child { child } => {
                // Signals of one kind are merged, and other children end too: ask.
                let Some(status) = child.try_wait().context("wait for the worker")? else { return Ok(None) };
                tracing::info!(%status, "worker ended");
                // Told to end before it could listen, it has served nothing yet.
                let unheard = self.ending && status.signal() == Some(Signal::SIGTERM as i32);
                handed_over = status.code() == Some(i32::from(Ended::HANDED_OVER));
                (status.success() || handed_over || unheard, Some(status))
            }
            Worker::Adopted { record } => {
                if record.observe()?.is_alive() {
                    return Ok(None);
                }
                // Nobody but its parent learns how it ended: a worker that ends as planned removes its record.
                let planned = !self.place.state.pid_file(Program::Worker).exists();
                (planned, None)
            }
        };
        self.worker = Worker::None;
        let restarting = self.options.restart && !planned && !self.ending;
        // Its devices wait: the peers are told to wait too.
        let reporting = if planned && !handed_over { None } else { Some(self.report(restarting || handed_over)) };
        if planned || self.ending {
            process_record_removed(&self.place.state.pid_file(Program::Worker), planned);
        }
        if self.ending {
            if let Some(reporting) = reporting
                && reporting.join().is_err()
            {
                tracing::error!("the report panicked");
            }
            return Ok(Some(if planned { Ok(()) } else { unplanned(status) }));
        }
        if restarting {
            std::thread::sleep(self.note_crash(Instant::now()));
            self.start()?;
        }
        Ok(None)
    }

    /// Says how long to wait before the next start.
    fn note_crash(&mut self, now: Instant) -> Duration {
        self.crashes.retain(|at| now.duration_since(*at) < CRASHES_WITHIN);
        self.crashes.push(now);
        let crashes = u32::try_from(self.crashes.len()).unwrap_or(u32::MAX);
        let doubled = crashes.saturating_sub(CRASHES_UNPUNISHED).min(16);
        (START_AGAIN * (1 << doubled)).min(START_AGAIN_LATEST)
    }

    /// Tells the peers, beside everything else: they may be away.
    fn report(&self, restarting: bool) -> std::thread::JoinHandle<()> {
        // The worker may have learned of nodes that this process does not know.
        let place = self.options.place();
        let cluster = place.as_ref().map_or_else(|_| self.place.nodes.get(), |place| place.nodes.get());
        let (me, state) = (self.place.me.clone(), self.place.state.clone());
        std::thread::spawn(move || match engine_port::report_exit(&cluster, &me, &state, restarting) {
            Some(peers) => tracing::info!(restarting, peers, "worker's end reported"),
            None => tracing::info!("the worker never had an incarnation: nothing to report"),
        })
    }
}

fn unplanned(status: Option<ExitStatus>) -> anyhow::Result<()> {
    match status {
        Some(status) => bail!("the worker did not end as planned: {status}"),
        None => bail!("the worker did not end as planned"),
    }
}

/// A worker that ended as planned is "stopped", not "exited".
fn process_record_removed(path: &std::path::Path, planned: bool) {
    if planned && let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(%error, "worker's record stays");
    }
}

/// Sends this process SIGCHLD when the lock at `path` is free: then the adopted worker is over.
fn wake_when_free(path: PathBuf) {
    std::thread::spawn(move || {
        match lock::wait_lock(&path) {
            Ok(lock) => drop(lock),
            Err(error) => tracing::error!(%error, "cannot wait for the adopted worker"),
        }
        if let Err(error) = kill(Pid::this(), Signal::SIGCHLD) {
            tracing::error!(%error, "cannot wake the supervisor");
        }
    });
}
