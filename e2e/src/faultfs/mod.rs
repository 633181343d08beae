//! Disks that fail on command.
//!
//! A [`FaultyFile`] is a file served by a FUSE server in this process: it reads, writes and syncs a backing file until it is
//! told to fail, to hang or to be full. A [`FaultyDisk`] puts a loop device and a file system on it, and mounts that
//! where a node has its pool: the engine under test sees the errors that a real disk would give it.

mod disk;
mod file;
mod switch;

pub use disk::{FaultyDisk, FileSystem};
pub use file::FaultyFile;
pub use switch::{Operation, Switch, Trouble};
