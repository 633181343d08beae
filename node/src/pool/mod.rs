//! The local storage that replicas are carved from: a directory, or a whole device that is formatted once.
//!
//! A pool carries a marker that says whose it is. Without the marker it is opened only if nothing at all is there; what it
//! found instead is in the error, and nothing was written.

mod device;
mod directory;
pub mod marker;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use crate::cluster::PoolPlace;
use crate::host::tool::RunToolError;
use crate::pool::marker::Marker;

pub use device::observe_signature;

/// A pool that is ready to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPool {
    /// Where the replicas' files go.
    pub path: PathBuf,
    /// The device below, if the pool is a whole one.
    pub device: Option<PathBuf>,
}

/// Size of a pool's file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All.
    pub size_bytes: u64,
    /// What replicas may still fill.
    pub free_bytes: u64,
}

/// Which file system a pool is on now: `major:minor` of the device below it. Another one may be mounted at the same path.
///
/// # Errors
/// The path cannot be looked at.
pub fn observe_file_system(path: &Path) -> std::io::Result<String> {
    let device = std::fs::metadata(path)?.dev();
    Ok(format!("{}:{}", major(device), minor(device)))
}

/// Why a pool is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenPoolError {
    /// Something is there that is not ours.
    #[error("pool {} is refused: {found}; nothing was written", path.display())]
    Refused {
        /// The pool.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// A call of the system failed.
    #[error("pool {}: cannot {doing}", path.display())]
    Host {
        /// The pool.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A program of the system failed.
    #[error("pool {}", path.display())]
    Tool {
        /// The pool.
        path: PathBuf,
        /// Why.
        source: RunToolError,
    },
}

impl OpenPoolError {
    fn host(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Host { path, doing, source }
    }

    fn refused(path: &Path, found: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), found: found.into() }
    }
}

/// Opens the pool at `place` for the node that `own` names; a device is mounted at `mount_point`. Idempotent.
///
/// # Errors
/// Something foreign is there, or the system refuses.
pub fn ensure_open(place: &PoolPlace, mount_point: &Path, own: &Marker) -> Result<OpenPool, OpenPoolError> {
    match place {
        PoolPlace::Directory(path) => {
            directory::ensure_open(path, own)?;
            Ok(OpenPool { path: path.clone(), device: None })
        }
        PoolPlace::Device(path) => {
            device::ensure_open(path, mount_point, own)?;
            Ok(OpenPool { path: mount_point.to_owned(), device: Some(path.clone()) })
        }
    }
}

/// The path at which the engine finds the pool's files, if the pool is open already: its marker is there.
///
/// # Errors
/// The marker is another node's, or cannot be read.
pub fn observe_open(place: &PoolPlace, mount_point: &Path, own: &Marker) -> Result<Option<PathBuf>, OpenPoolError> {
    let path = match place {
        PoolPlace::Directory(path) => path.as_path(),
        PoolPlace::Device(_) => mount_point,
    };
    let Some(marker) = Marker::read(path)? else { return Ok(None) };
    match place {
        PoolPlace::Directory(_) => marker.check_directory(path, own)?,
        // It is not mounted yet: this is the directory below, which was the pool before.
        PoolPlace::Device(_) if !marker.device => return Ok(None),
        PoolPlace::Device(_) => marker.check(path, own)?,
    }
    Ok(Some(path.to_owned()))
}

/// Size and free space of an open pool.
///
/// # Errors
/// The system refuses.
pub fn observe_space(path: &Path) -> std::io::Result<Space> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let unit = stat.fragment_size();
    Ok(Space { size_bytes: stat.blocks() * unit, free_bytes: stat.blocks_available() * unit })
}

#[cfg(test)]
mod tests;
