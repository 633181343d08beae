//! A unix socket that only its owner can reach, from the moment at which it exists.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Longest path of a socket that the kernel takes, in bytes, without the closing zero.
const PATH_BYTES_MAX: usize = 107;

/// Whose directory a socket lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    /// Ours alone: it is made if it is missing, and closed to others.
    Ours,
    /// Somebody else's, who decides who may enter: it stays as it is.
    Theirs,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path does not fit into an address.
    #[error("the path {path} of a socket is longer than {PATH_BYTES_MAX} bytes")]
    PathTooLong {
        /// That path.
        path: PathBuf,
    },
    /// It names no file in a directory.
    #[error("{path} names no file in a directory")]
    NoFile {
        /// That path.
        path: PathBuf,
    },
    /// The directory could not be made, or not be closed to others.
    #[error("make the directory of {path}")]
    Directory {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a predecessor left could not be removed, or is something else than a socket.
    #[error("remove the old socket {path}")]
    RemoveOld {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("make the socket {path}")]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that listens. Its file is removed with it, unless a successor has put its own there.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: File,
}

/// The file of a socket.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    /// Device and inode: which file it is.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`, where an old socket is what a predecessor left: the caller is the only one who may listen there.
    ///
    /// The socket is made under another name, closed to others (mode 0600) and only then given its own: nobody can connect before.
    ///
    /// # Errors
    /// Which step failed.
    pub fn listen(path: &Path, directory: Directory) -> Result<Self, ListenError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ListenError::NoFile { path: path.to_owned() });
        };
        // A name that directories' readers (kubelet among them) pass over.
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        let hidden = parent.join(hidden);
        if hidden.as_os_str().len() > PATH_BYTES_MAX {
            return Err(ListenError::PathTooLong { path: path.to_owned() });
        }
        if directory == Directory::Ours {
            make_private(parent).map_err(|source| ListenError::Directory { path: path.to_owned(), source })?;
        }
        for old in [path, &hidden] {
            remove_socket(old).map_err(|source| ListenError::RemoveOld { path: old.to_owned(), source })?;
        }
        let bind = || {
            let listener = UnixListener::bind(&hidden)?;
            fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
            fs::rename(&hidden, path)?;
            let identity = identity(path)?;
            Ok(Self { listener, file: File { path: path.to_owned(), identity } })
        };
        bind().map_err(|source| ListenError::Bind { path: path.to_owned(), source })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub(crate) fn into_parts(self) -> (UnixListener, File) {
        (self.listener, self.file)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            // What cannot be removed is removed by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Makes a directory that only its owner can enter. One that belongs to another user is left as it is: it was mounted for us.
fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match fs::set_permissions(directory, Permissions::from_mode(0o700)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::debug!(directory = %directory.display(), "the socket's directory belongs to somebody else");
            Ok(())
        }
        done => done,
    }
}

/// Removes a socket, and nothing but a socket.
fn remove_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(there) if there.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket is there")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use tokio::net::UnixStream;

    use super::{Directory, ListenError, Socket};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_of_our_directory_is_closed_to_others() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("plugins/ours/csi.sock");
        let socket = Socket::listen(&path, Directory::Ours).expect("it listens");
        assert_eq!((mode(&path), mode(path.parent().expect("a directory"))), (0o600, 0o700));
        UnixStream::connect(&path).await.expect("it is reached under its name");
        assert_eq!(fs::read_dir(path.parent().expect("a directory")).expect("readable").count(), 1);
        drop(socket);
        assert!(!path.exists(), "nothing is left behind");
    }

    #[tokio::test]
    async fn an_open_directory_of_ours_is_closed_and_theirs_stays_open() {
        let outer = tempfile::tempdir().expect("a directory");
        for (name, directory, expected) in [("a", Directory::Ours, 0o700), ("b", Directory::Theirs, 0o755)] {
            let inner = outer.path().join(name);
            fs::create_dir(&inner).expect("made");
            fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).expect("opened");
            let _socket = Socket::listen(&inner.join("s.sock"), directory).expect("it listens");
            assert_eq!((mode(&inner), mode(&inner.join("s.sock"))), (expected, 0o600), "{directory:?}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_successors_is_left_alone() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("s.sock");
        let old = Socket::listen(&path, Directory::Theirs).expect("it listens");
        let new = Socket::listen(&path, Directory::Theirs).expect("it takes the place");
        drop(old);
        UnixStream::connect(&path).await.expect("the successor is still reached");
        assert_eq!(new.path(), path);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_removed() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("s.sock");
        fs::write(&path, "data").expect("written");
        let refused = Socket::listen(&path, Directory::Theirs).expect_err("there is a file");
        assert!(matches!(refused, ListenError::RemoveOld { .. }), "{refused}");
        assert_eq!(fs::read(&path).expect("still there"), b"data");
        let long = outer.path().join("x".repeat(120));
        let refused = Socket::listen(&long, Directory::Theirs).expect_err("too long");
        assert!(matches!(refused, ListenError::PathTooLong { .. }), "{refused}");
    }
}
