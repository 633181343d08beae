//! What can go wrong with a loop device.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// Failures to make a loop device. Nothing stays configured after one.
#[derive(Debug, thiserror::Error)]
pub enum SetupLoop {
    /// The volume's file cannot be opened.
    #[error("cannot open the volume's file {name:?}")]
    OpenFile {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No loop driver, or no right to use it.
    #[error("cannot get a free loop device from /dev/loop-control")]
    GetFree(#[source] io::Error),
    /// The device node cannot be made.
    #[error("cannot make the device node {}", path.display())]
    MakeNode {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The device node cannot be opened.
    #[error("cannot open {}", path.display())]
    OpenDevice {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the configuration.
    #[error("cannot configure {}", path.display())]
    Configure {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The kernel configured the device without what was asked for.
    #[error("{} came up without direct I/O, or with another size ({size_bytes} bytes)", path.display())]
    NotAsAsked {
        /// Which.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
}

/// Failures to change or to give up a loop device.
#[derive(Debug, thiserror::Error)]
pub enum ChangeLoop {
    /// The device cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Mounted, or held open by somebody.
    #[error("{} is in use", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot change {}", path.display())]
    Kernel {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The new size has not arrived at the device.
    #[error("{} has {found} bytes, not {wanted}", path.display())]
    Size {
        /// Which.
        path: PathBuf,
        /// Wanted size, in bytes.
        wanted: u64,
        /// Size found, in bytes.
        found: u64,
    },
}
