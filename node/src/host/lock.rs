//! A file lock that lives as long as its process, whoever the parent is.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

/// A held lock; dropping it (or the end of the process, however it comes) frees it.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

/// Takes the lock of the file at `path`, or says that somebody has it.
///
/// # Errors
/// The file cannot be made or locked.
pub fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Takes the lock of the file at `path`, waiting for whoever has it.
///
/// # Errors
/// The file cannot be made or locked.
pub fn wait_lock(path: &Path) -> io::Result<Lock> {
    let mut file = open(path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(Lock(lock)),
            Err((same, nix::Error::EINTR)) => file = same,
            Err((_, error)) => return Err(error.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::try_lock;

    #[test]
    fn a_lock_has_one_holder() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let held = try_lock(&path).expect("lockable").expect("free");
        assert!(try_lock(&path).expect("lockable").is_none());
        drop(held);
        assert!(try_lock(&path).expect("lockable").is_some());
    }
}
