//! What has to be undone, also when a test fails or a signal comes.
//!
//! Every mount, loop device and process that a program of this crate makes is noted here with the action that undoes
//! it. The guard undoes it when dropped; a signal undoes all that is left, newest first.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// On a signal the program's other threads still run, and may make a file in a directory that is being removed.
const REMOVALS_MAX: u32 = 16;

/// What another thread was undoing when the signal came may take so long: it stops programs, which flush.
const UNDOING_BOUND: Duration = Duration::from_secs(60);

type Action = Box<dyn FnMut() + Send>;

#[derive(Default)]
struct Pending {
    next_id: u64,
    actions: BTreeMap<u64, Action>,
    /// Threads that undo something now.
    undoing: Vec<ThreadId>,
    /// A signal came, and this thread ends the program.
    ending: Option<ThreadId>,
}

/// The list of what has to be undone. Clones share it.
#[derive(Clone, Default)]
pub struct Cleanup {
    pending: Arc<Mutex<Pending>>,
    undone: Arc<Condvar>,
}

/// Undoes one thing when dropped.
pub struct Undo {
    cleanup: Cleanup,
    id: u64,
}

impl Cleanup {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes how to undo what the caller is about to do (noted first, so that no signal falls in between).
    pub fn defer(&self, undo: impl FnMut() + Send + 'static) -> Undo {
        let mut pending = self.lock_unless_ending();
        let id = pending.next_id;
        pending.next_id += 1;
        pending.actions.insert(id, Box::new(undo));
        Undo { cleanup: self.clone(), id }
    }

    /// From now on SIGINT, SIGTERM and SIGHUP undo everything and end the process with 130.
    pub fn on_signals(&self) -> Result<()> {
        let cleanup = self.clone();
        ctrlc::set_handler(move || {
            cleanup.lock().ending = Some(thread::current().id());
            cleanup.undo_all();
            // What another thread had begun to undo is not on the list any more.
            let all_done =
                cleanup.undone.wait_timeout_while(cleanup.lock(), UNDOING_BOUND, |pending| !pending.undoing.is_empty());
            drop(all_done);
            std::process::exit(130);
        })
        .context("install the signal handler")
    }

    /// Undoes all that is left, newest first.
    pub fn undo_all(&self) {
        // The lock is not held while an action runs: an action may itself drop a guard.
        while let Some((_, mut action)) = self.pop() {
            action();
        }
    }

    /// Once a signal ends the program, whoever would make or undo something more stays here until it is over: what it makes would be
    /// left behind, and the program would end before all is undone. But what is being undone goes on.
    fn lock_unless_ending(&self) -> MutexGuard<'_, Pending> {
        let pending = self.lock();
        let me = thread::current().id();
        if pending.ending.is_none_or(|ending| ending == me || pending.undoing.contains(&me)) {
            return pending;
        }
        drop(pending);
        loop {
            thread::park();
        }
    }

    fn pop(&self) -> Option<(u64, Action)> {
        self.lock().actions.pop_last()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Undo {
    /// Forgets it: what was to be undone is gone already.
    pub fn forget(self) {
        self.cleanup.lock_unless_ending().actions.remove(&self.id);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let mut pending = self.cleanup.lock_unless_ending();
        let Some(mut action) = pending.actions.remove(&self.id) else { return };
        let me = thread::current().id();
        pending.undoing.push(me);
        drop(pending);
        action();
        let mut pending = self.cleanup.lock();
        if let Some(at) = pending.undoing.iter().rposition(|thread| *thread == me) {
            pending.undoing.swap_remove(at);
        }
        self.cleanup.undone.notify_all();
    }
}

/// A directory of one's own, which goes with all that is in it: when dropped, or on a signal.
pub struct Scratch {
    path: PathBuf,
    _remove: Undo,
}

impl Scratch {
    /// Makes one in `parent`; its name begins with `prefix`.
    pub fn make(parent: &Path, prefix: &str, cleanup: &Cleanup) -> Result<Self> {
        let path = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(parent)
            .with_context(|| format!("make a directory in {}", parent.display()))?
            .keep();
        let remove = {
            let path = path.clone();
            cleanup.defer(move || remove_all(&path))
        };
        Ok(Scratch { path, _remove: remove })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn remove_all(path: &Path) {
    let mut tries = 0;
    while let Err(error) = std::fs::remove_dir_all(path) {
        tries += 1;
        if error.kind() == ErrorKind::NotFound {
            return;
        }
        if tries == REMOVALS_MAX {
            return eprintln!("{} is left behind: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cleanup, Scratch};
    use std::sync::{Arc, Mutex};

    #[test]
    fn everything_is_undone_once_and_newest_first() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let cleanup = Cleanup::new();
        let note = |name: &'static str| {
            let log = log.clone();
            cleanup.defer(move || log.lock().unwrap().push(name))
        };
        let (first, second, third) = (note("first"), note("second"), note("third"));
        drop(second);
        cleanup.undo_all();
        drop((first, third));
        assert_eq!(*log.lock().unwrap(), ["second", "third", "first"]);
    }

    #[test]
    fn a_directory_goes_with_what_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let cleanup = Cleanup::new();
        let scratch = Scratch::make(parent.path(), "test-", &cleanup).unwrap();
        std::fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        std::fs::write(scratch.path().join("a/file"), "bytes").unwrap();
        cleanup.undo_all();
        assert!(!scratch.path().exists());
        let path = Scratch::make(parent.path(), "test-", &cleanup).unwrap().path().to_owned();
        assert!(!path.exists());
    }

    #[test]
    fn forgotten_is_not_undone() {
        let log = Arc::new(Mutex::new(0));
        let cleanup = Cleanup::new();
        let counted = log.clone();
        cleanup.defer(move || *counted.lock().unwrap() += 1).forget();
        cleanup.undo_all();
        assert_eq!(*log.lock().unwrap(), 0);
    }
}
