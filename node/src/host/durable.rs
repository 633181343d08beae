//! Files that are there whole or not at all, also after a loss of power.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Whoever the process's umask lets.
    Any,
    /// Only its owner: it holds a secret.
    Owner,
}

/// Where a file is written before it gets its name. What a write that was interrupted left there is overwritten by the next.
#[must_use]
pub fn scratch_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Writes `bytes` in the place of the file at `path`: durable when this returns.
///
/// # Errors
/// Of the operating system. The old file may be there still, or the new one whole.
pub fn write(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let scratch = scratch_of(path);
    let mode = match readers {
        Readers::Any => 0o666,
        Readers::Owner => 0o600,
    };
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&scratch)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&scratch, path)?;
    sync_dir_of(path)
}

/// Removes a file, and says whether it was there. Durable once [`sync_dir_of`] it has returned.
///
/// # Errors
/// Of the operating system.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes durable which files are in the directory of `path`.
///
/// # Errors
/// Of the operating system.
pub fn sync_dir_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::{Readers, scratch_of, write};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file.json");
        write(&path, b"a long first text", Readers::Any).expect("written");
        std::fs::write(scratch_of(&path), "what a killed write left, longer than the second text").expect("written");
        write(&path, b"second", Readers::Owner).expect("written");
        assert_eq!(std::fs::read(&path).expect("read"), b"second");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_secret_is_its_owners() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file.json");
        write(&path, b"secret", Readers::Owner).expect("written");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }
}
