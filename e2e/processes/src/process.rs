//! One program in the background that can be killed, started again, stopped and continued.

use crate::cleanup::{Cleanup, Undo};
use crate::wait;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// As much of a log as an error message bears.
const LOG_LINES_SHOWN: usize = 20;
/// For a stop to reach all threads of a program.
const FREEZE_BOUND: Duration = Duration::from_secs(20);

/// A program, running or not. It is killed when this is dropped, or on a signal.
pub struct Process {
    name: &'static str,
    log: PathBuf,
    child: Slot,
    _kill: Undo,
}

type Slot = Arc<Mutex<Option<Child>>>;

fn lock(slot: &Slot) -> MutexGuard<'_, Option<Child>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Not running yet. What it says, over all its runs, goes to `log`.
    pub fn new(name: &'static str, log: PathBuf, cleanup: &Cleanup) -> Self {
        let child = Slot::default();
        let kill = {
            let child = child.clone();
            cleanup.defer(move || {
                if let Err(error) = end(&child) {
                    eprintln!("{name}: {error:#}");
                }
            })
        };
        Process { name, log, child, _kill: kill }
    }

    /// Starts it by this command. It must not be running.
    pub fn start(&self, command: &mut Command) -> Result<()> {
        let mut child = lock(&self.child);
        if child.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = File::options().create(true).append(true).open(&self.log).context("open a log")?;
        let started = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        *child = Some(started);
        Ok(())
    }

    /// SIGKILL, and waits for its end. Nothing happens if it is not running.
    pub fn kill(&self) -> Result<()> {
        end(&self.child).with_context(|| format!("kill {}", self.name))
    }

    /// Sends a signal to the running program.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid()?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// SIGSTOP, and waits until every thread of it has stopped: until then one may still answer.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.pid()?);
        wait::until_true(&format!("{} stands still", self.name), FREEZE_BOUND, || {
            for task in fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
                let path = task.with_context(|| format!("list {tasks}"))?.path().join("stat");
                // A thread that ended meanwhile does nothing more. The state follows the name, which is in parentheses.
                let Ok(stat) = fs::read_to_string(&path) else { continue };
                if !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// The process id of the running program.
    pub fn pid(&self) -> Result<i32> {
        let child = lock(&self.child);
        let id = child.as_ref().with_context(|| format!("{} is not running", self.name))?.id();
        i32::try_from(id).context("a process id is small")
    }

    /// An error with the end of its log if it ended by itself.
    pub fn ensure_running(&self) -> Result<()> {
        let ended = match lock(&self.child).as_mut() {
            Some(child) => child.try_wait().with_context(|| format!("look at {}", self.name))?,
            None => bail!("{} is not running", self.name),
        };
        match ended {
            Some(status) => bail!("{} ended by itself ({status}): {}", self.name, self.log_end()),
            None => Ok(()),
        }
    }

    /// The end of what it said.
    pub fn log_end(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

/// SIGKILL ends a stopped process too.
fn end(slot: &Slot) -> Result<()> {
    let Some(mut child) = lock(slot).take() else {
        return Ok(());
    };
    child.kill().context("send SIGKILL")?;
    child.wait().context("wait for the end")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Process;
    use crate::cleanup::Cleanup;
    use crate::command::program;
    use crate::wait;
    use std::time::Duration;

    #[test]
    fn end_by_itself_is_told_with_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::new("sh", dir.path().join("log"), &Cleanup::new());
        assert!(process.ensure_running().is_err());
        process.start(&mut program("sh", ["-c", "echo why >&2; exit 3"])).unwrap();
        let error = wait::until("an error", Duration::from_secs(20), || Ok(process.ensure_running().err())).unwrap();
        let error = error.to_string();
        assert!(error.contains("why") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn frozen_program_stands_still_until_it_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::new("yes", dir.path().join("log"), &Cleanup::new());
        process.start(&mut program("yes", [""])).unwrap();
        process.freeze().unwrap();
        let written = || std::fs::metadata(dir.path().join("log")).unwrap().len();
        let before = written();
        assert_eq!(written(), before);
        process.signal(nix::sys::signal::Signal::SIGCONT).unwrap();
        wait::until("more", Duration::from_secs(20), || Ok((written() > before).then_some(()))).unwrap();
    }

    #[test]
    fn runs_once_at_a_time_and_can_be_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::new("tail", dir.path().join("log"), &Cleanup::new());
        let mut command = program("tail", ["-f", "/dev/null"]);
        process.start(&mut command).unwrap();
        assert!(process.start(&mut command).is_err());
        process.kill().unwrap();
        process.kill().unwrap();
        assert!(process.pid().is_err());
        process.start(&mut command).unwrap();
        process.ensure_running().unwrap();
    }
}
