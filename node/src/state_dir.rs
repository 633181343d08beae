//! Where a node keeps its state: one directory with fixed names.

use std::path::{Path, PathBuf};

/// A node's state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The directory at `path`; nothing is made or looked at.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The node's `cluster.toml`, unless a program is told another.
    #[must_use]
    pub fn cluster_file(&self) -> PathBuf {
        self.0.join("cluster.toml")
    }

    /// The engine's admin socket.
    #[must_use]
    pub fn engine_socket(&self) -> PathBuf {
        self.0.join("engine.sock")
    }

    /// The holder's socket.
    #[must_use]
    pub fn holder_socket(&self) -> PathBuf {
        self.0.join("holder.sock")
    }

    /// The agent's socket.
    #[must_use]
    pub fn node_socket(&self) -> PathBuf {
        self.0.join("node.sock")
    }

    /// Process id file of one program.
    #[must_use]
    pub fn pid_file(&self, program: Program) -> PathBuf {
        self.0.join(format!("{}.pid", program.name()))
    }

    /// What one program logs, in a playground.
    #[must_use]
    pub fn log_file(&self, program: Program) -> PathBuf {
        self.0.join(format!("{}.log", program.name()))
    }

    /// Held by the worker for as long as it lives, whoever its parent is.
    #[must_use]
    pub fn worker_lock(&self) -> PathBuf {
        self.0.join("worker.lock")
    }

    /// The socket of a volume that is attached by the NBD protocol.
    #[must_use]
    pub fn nbd_socket(&self, volume: &str) -> PathBuf {
        self.0.join(format!("nbd-{volume}.sock"))
    }

    /// What this node knows of each volume: its name and first configuration.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }

    /// For which pods volumes are published here.
    #[must_use]
    pub fn users(&self) -> PathBuf {
        self.0.join("users")
    }

    /// Creations and deletions that are not finished on every node.
    #[must_use]
    pub fn unfinished(&self) -> PathBuf {
        self.0.join("unfinished")
    }

    /// The state of the engine itself: voters' memories, incarnation, mounts of its front ends.
    #[must_use]
    pub fn engine(&self) -> PathBuf {
        self.0.join("engine")
    }

    /// Where a pool that is a whole device is mounted.
    #[must_use]
    pub fn pool_mount(&self) -> PathBuf {
        self.0.join("pool")
    }
}

/// The long-running programs of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Keeps devices while the engine restarts.
    Holder,
    /// Starts the worker and reports its exit.
    Supervisor,
    /// Carries the data.
    Worker,
    /// Speaks with the command line.
    Agent,
}

impl Program {
    /// All programs, in the order in which they are started.
    pub const ALL: [Self; 4] = [Self::Holder, Self::Supervisor, Self::Worker, Self::Agent];

    /// The stem of its files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Supervisor => "supervisor",
            Self::Worker => "worker",
            Self::Agent => "agent",
        }
    }
}
