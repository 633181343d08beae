//! Device nodes with a volume's name. Nothing else may be running that would make them: no udev runs in a container.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Why a device node cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EnsureNodeError {
    /// Something else has the name.
    #[error("{path} exists and is not a block device: it is not ours to replace")]
    Foreign {
        /// The name.
        path: String,
    },
    /// A call of the system failed.
    #[error("cannot {doing} {path}")]
    Host {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Makes `path` the block device `major:minor`, and its directory if that is missing.
///
/// # Errors
/// Something foreign has the name, or the system refuses.
pub fn ensure_node(path: &Path, major: u32, minor: u32) -> Result<(), EnsureNodeError> {
    let host = |doing: &'static str| {
        let path = path.display().to_string();
        move |source: io::Error| EnsureNodeError::Host { doing, path, source }
    };
    let number = makedev(u64::from(major), u64::from(minor));
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_block_device() && there.rdev() == number => return Ok(()),
        // The name of an earlier attachment, whose number is somebody else's by now.
        Ok(there) if there.file_type().is_block_device() => std::fs::remove_file(path).map_err(host("remove"))?,
        Ok(_) => return Err(EnsureNodeError::Foreign { path: path.display().to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(host("make the directory of"))?;
            }
        }
        Err(error) => return Err(host("look at")(error)),
    }
    let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IWGRP;
    mknod(path, SFlag::S_IFBLK, mode, number).map_err(|error| host("make the device node")(error.into()))
}

/// Removes the block device node at `path`, if there is one.
///
/// # Errors
/// Something foreign has the name, or the system refuses.
pub fn remove_node(path: &Path) -> Result<(), EnsureNodeError> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_block_device() => std::fs::remove_file(path)
            .map_err(|source| EnsureNodeError::Host { doing: "remove", path: path.display().to_string(), source }),
        Ok(_) => Err(EnsureNodeError::Foreign { path: path.display().to_string() }),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{EnsureNodeError, ensure_node, remove_node};
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_foreign_file_keeps_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("v1");
        std::fs::write(&path, "mine").expect("writable");
        assert!(matches!(ensure_node(&path, 7, 3), Err(EnsureNodeError::Foreign { .. })));
        assert!(matches!(remove_node(&path), Err(EnsureNodeError::Foreign { .. })));
        assert_eq!(std::fs::read(&path).expect("readable"), b"mine");
    }

    #[test]
    fn a_node_is_made_once_and_follows_its_device() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dev/v1");
        match ensure_node(&path, 7, 3) {
            // Without the right to make device nodes there is nothing to test here.
            Err(EnsureNodeError::Host { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                return;
            }
            result => result.expect("made"),
        }
        ensure_node(&path, 7, 3).expect("again");
        let first = std::fs::metadata(&path).expect("there").ino();
        ensure_node(&path, 7, 4).expect("another device");
        assert_ne!(std::fs::metadata(&path).expect("there").rdev(), 0);
        remove_node(&path).expect("removed");
        remove_node(&path).expect("again");
        assert!(first != 0 && !path.exists());
    }
}
