//! Processes recorded in files: who they are for certain, what state they are in, and signals to none but them.
//!
//! A process id alone may meanwhile be somebody else's. A record therefore holds the time at which the kernel started the
//! process, and the boot in which it did.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

/// How often a wait looks again. Short beside the milliseconds that a process needs to end, long beside a look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why a process file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The file or /proc cannot be read.
    #[error("cannot read {}", path.display())]
    ReadFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    WriteFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a record.
    #[error("{} is not a process record", path.display())]
    ParseFile {
        /// Which file.
        path: PathBuf,
    },
    /// The kernel refused the signal.
    #[error("cannot send {signal} to process {pid}")]
    SendSignal {
        /// Which signal.
        signal: Signal,
        /// To whom.
        pid: i32,
        /// Why.
        source: nix::Error,
    },
    /// It still runs after the longest time that its end may take.
    #[error("process {pid} has not ended after {} s", waited.as_secs())]
    WaitForExit {
        /// Who.
        pid: i32,
        /// For how long.
        waited: Duration,
    },
}

/// What a look at a recorded process shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// It runs.
    Running,
    /// It was stopped by a signal (SIGSTOP) and can be resumed.
    Paused,
    /// It was started and is no more.
    Exited,
    /// It ended as planned, or was never started: there is no record.
    Stopped,
}

impl Observed {
    /// Whether the process exists.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// One process, for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pid: i32,
    start_ticks: u64,
    boot_id: String,
}

impl Record {
    /// The process that runs this code.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn of_self() -> Result<Self, ProcessError> {
        let pid = Pid::this().as_raw();
        match stat(pid)? {
            Some(stat) => Ok(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? }),
            None => Err(ProcessError::ReadFile { path: stat_path(pid), source: io::ErrorKind::NotFound.into() }),
        }
    }

    /// The process `pid`, a child that has not been waited for yet.
    ///
    /// # Errors
    /// /proc cannot be read, or no such process is there.
    pub fn of_child(pid: u32) -> Result<Self, ProcessError> {
        let pid = i32::try_from(pid).expect("the kernel's process ids are positive i32");
        match stat(pid)? {
            Some(stat) => Ok(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? }),
            None => Err(ProcessError::ReadFile { path: stat_path(pid), source: io::ErrorKind::NotFound.into() }),
        }
    }

    /// The record in the file at `path`, if there is one.
    ///
    /// # Errors
    /// The file cannot be read or is not a record.
    pub fn read(path: &Path) -> Result<Option<Self>, ProcessError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ProcessError::ReadFile { path: path.to_owned(), source }),
        };
        let bad = || ProcessError::ParseFile { path: path.to_owned() };
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1).ok_or_else(bad)?;
        let start_ticks = lines.next().and_then(|line| line.parse().ok()).ok_or_else(bad)?;
        let boot_id = lines.next().ok_or_else(bad)?.to_owned();
        Ok(Some(Self { pid, start_ticks, boot_id }))
    }

    /// Writes the record: process id, start in clock ticks since boot, boot id, a line each. Readers see it whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ProcessError> {
        let text = format!("{}\n{}\n{}\n", self.pid, self.start_ticks, self.boot_id);
        let scratch = path.with_extension("pid.new");
        std::fs::write(&scratch, text)
            .and_then(|()| std::fs::rename(&scratch, path))
            .map_err(|source| ProcessError::WriteFile { path: path.to_owned(), source })
    }

    /// Its process id, to be shown.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// What the process does now.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn observe(&self) -> Result<Observed, ProcessError> {
        let Some(stat) = stat(self.pid)? else { return Ok(Observed::Exited) };
        if stat.start_ticks != self.start_ticks || self.boot_id != boot_id()? {
            return Ok(Observed::Exited);
        }
        Ok(match stat.state {
            // A zombie: over, but its parent has not asked.
            'Z' | 'X' | 'x' => Observed::Exited,
            'T' | 't' => Observed::Paused,
            _ => Observed::Running,
        })
    }

    /// Sends `signal` if the process is still the recorded one. Says whether it was sent.
    ///
    /// # Errors
    /// /proc cannot be read, or the kernel refused the signal.
    pub fn signal(&self, signal: Signal) -> Result<bool, ProcessError> {
        if !self.observe()?.is_alive() {
            return Ok(false);
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) => Ok(true),
            Err(nix::Error::ESRCH) => Ok(false),
            Err(source) => Err(ProcessError::SendSignal { signal, pid: self.pid, source }),
        }
    }

    /// Waits until the process is over.
    ///
    /// # Errors
    /// /proc cannot be read, or it takes longer than `longest`.
    pub fn wait_for_exit(&self, longest: Duration) -> Result<(), ProcessError> {
        let start = Instant::now();
        while self.observe()?.is_alive() {
            if start.elapsed() > longest {
                return Err(ProcessError::WaitForExit { pid: self.pid, waited: longest });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// What the process recorded at `path` does now.
///
/// # Errors
/// The file or /proc cannot be read.
pub fn observe_file(path: &Path) -> Result<Observed, ProcessError> {
    Record::read(path)?.map_or(Ok(Observed::Stopped), |record| record.observe())
}

/// Removes the record at `path` if it is the caller's own.
pub fn forget_self(path: &Path) {
    if let (Ok(Some(record)), Ok(own)) = (Record::read(path), Record::of_self())
        && record == own
    {
        // A file that stays says "exited" instead of "stopped": not worth failing for.
        let _ = std::fs::remove_file(path);
    }
}

struct Stat {
    state: char,
    start_ticks: u64,
}

fn stat_path(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/stat"))
}

fn stat(pid: i32) -> Result<Option<Stat>, ProcessError> {
    let path = stat_path(pid);
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_stat(&text).map(Some).ok_or(ProcessError::ParseFile { path }),
        // ESRCH: it ended between open and read.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => Ok(None),
        Err(source) => Err(ProcessError::ReadFile { path, source }),
    }
}

/// Fields 3 (state) and 22 (start time) of proc(5). The second field is the program's name in parentheses, which may itself
/// contain spaces and parentheses: counting starts after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(22 - 4)?.parse().ok()?;
    Some(Stat { state, start_ticks })
}

fn boot_id() -> Result<String, ProcessError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|source| ProcessError::ReadFile { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::{Observed, Record, observe_file, parse_stat};
    use nix::sys::signal::Signal;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn stat_is_parsed_after_the_last_parenthesis() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        let stat = parse_stat(text).expect("is a stat line");
        assert_eq!((stat.state, stat.start_ticks), ('S', 98765));
    }

    #[test]
    fn a_record_survives_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker.pid");
        assert_eq!(observe_file(&path).expect("readable"), Observed::Stopped);
        let own = Record::of_self().expect("we run");
        own.write(&path).expect("writable");
        assert_eq!(Record::read(&path).expect("readable"), Some(own));
        assert_eq!(observe_file(&path).expect("readable"), Observed::Running);
        super::forget_self(&path);
        assert!(!path.exists());
    }

    #[test]
    fn a_reused_process_id_gets_no_signal() {
        let own = Record::of_self().expect("we run");
        let other = Record { start_ticks: own.start_ticks + 1, ..own };
        assert_eq!(other.observe().expect("readable"), Observed::Exited);
        assert!(!other.signal(Signal::SIGKILL).expect("readable"), "this test would be over");
    }

    #[test]
    fn a_child_is_paused_resumed_and_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep is everywhere");
        let record = Record::of_child(child.id()).expect("it runs");
        assert!(record.signal(Signal::SIGSTOP).expect("sent"));
        while record.observe().expect("readable") != Observed::Paused {
            std::thread::yield_now();
        }
        assert!(record.signal(Signal::SIGKILL).expect("sent"));
        record.wait_for_exit(Duration::from_secs(10)).expect("it ends");
        assert_eq!(record.observe().expect("readable"), Observed::Exited);
        child.wait().expect("is ours");
    }

    #[test]
    fn foreign_content_is_no_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker.pid");
        for text in ["", "x\n1\nb\n", "1\n1\nb\n", "-1\n1\nb\n", "77\n"] {
            std::fs::write(&path, text).expect("writable");
            assert!(Record::read(&path).is_err(), "{text:?}");
        }
    }
}
