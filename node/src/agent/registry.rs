//! What this node's agent remembers: the volumes of the cluster, and creations and deletions that are not finished.
//!
//! One JSON file each, written whole and durably before anything relies on it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host::durable::{self, Readers};
use crate::spec::Spec;
use crate::state_dir::StateDir;

/// Why the memory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file cannot be written or removed.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Something that was begun and is not finished on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfinished {
    /// A creation that nobody was told has succeeded: it is undone.
    Create {
        /// The volume.
        spec: Spec,
    },
    /// A deletion: it is carried on.
    Delete {
        /// The volume.
        spec: Spec,
        /// Nodes that have not confirmed.
        pending: Vec<u32>,
        /// Its Leases, if it has any, are deleted.
        #[serde(default)]
        leases_deleted: bool,
    },
}

impl Unfinished {
    /// The volume that it is about.
    #[must_use]
    pub const fn spec(&self) -> &Spec {
        match self {
            Self::Create { spec } | Self::Delete { spec, .. } => spec,
        }
    }
}

/// The agent's memory.
#[derive(Debug)]
pub struct Registry {
    volumes_dir: PathBuf,
    unfinished_dir: PathBuf,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    volumes: BTreeMap<String, Spec>,
    unfinished: BTreeMap<String, Unfinished>,
}

impl Registry {
    /// Reads what the state directory holds.
    ///
    /// # Errors
    /// A file cannot be read or parsed.
    pub fn open(state: &StateDir) -> Result<Self, RegistryError> {
        let (volumes_dir, unfinished_dir) = (state.volumes(), state.unfinished());
        let volumes = read_dir::<Spec>(&volumes_dir)?.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let unfinished = read_dir::<Unfinished>(&unfinished_dir)?;
        let unfinished = unfinished.into_iter().map(|work| (file_name(work.spec()), work)).collect();
        Ok(Self { volumes_dir, unfinished_dir, memory: Mutex::new(Memory { volumes, unfinished }) })
    }

    /// The volume of this name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<Spec> {
        self.memory().volumes.get(name).cloned()
    }

    /// All volumes, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<Spec> {
        self.memory().volumes.values().cloned().collect()
    }

    /// All that is not finished.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Unfinished> {
        self.memory().unfinished.values().cloned().collect()
    }

    /// Remembers a volume. Says whether its name was free or is this very volume's.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_volume(&self, spec: &Spec) -> Result<bool, RegistryError> {
        let mut memory = self.memory();
        if let Some(known) = memory.volumes.get(&spec.name) {
            return Ok(known.id == spec.id);
        }
        write(&self.volumes_dir.join(format!("{}.json", spec.name)), spec)?;
        memory.volumes.insert(spec.name.clone(), spec.clone());
        Ok(true)
    }

    /// Forgets a volume, if it is the one of this identity.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget_volume(&self, name: &str, id: [u8; 16]) -> Result<bool, RegistryError> {
        let mut memory = self.memory();
        if memory.volumes.get(name).is_none_or(|spec| spec.id != id) {
            return Ok(false);
        }
        remove(&self.volumes_dir.join(format!("{name}.json")))?;
        memory.volumes.remove(name);
        Ok(true)
    }

    /// Remembers that something was begun, or how far it is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_unfinished(&self, work: &Unfinished) -> Result<(), RegistryError> {
        let mut memory = self.memory();
        let name = file_name(work.spec());
        write(&self.unfinished_dir.join(&name), work)?;
        memory.unfinished.insert(name, work.clone());
        Ok(())
    }

    /// Forgets what is finished.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn finish(&self, spec: &Spec) -> Result<(), RegistryError> {
        let mut memory = self.memory();
        let name = file_name(spec);
        remove(&self.unfinished_dir.join(&name))?;
        memory.unfinished.remove(&name);
        Ok(())
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().expect("no holder panics")
    }
}

fn file_name(spec: &Spec) -> String {
    format!("{}-{}.json", spec.name, crate::input::to_hex(&spec.id))
}

fn read_dir<T: DeserializeOwned>(dir: &Path) -> Result<Vec<T>, RegistryError> {
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |source| RegistryError::Read { path, source }
    };
    std::fs::create_dir_all(dir).map_err(|source| RegistryError::Write { path: dir.to_owned(), source })?;
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read_error(dir))? {
        let path = entry.map_err(read_error(dir))?.path();
        // Whatever else is there is a file that was not written to its end: nothing relied on it.
        if path.extension().is_some_and(|extension| extension == "json") {
            let bytes = std::fs::read(&path).map_err(read_error(&path))?;
            all.push(serde_json::from_slice(&bytes).map_err(|source| RegistryError::Parse { path, source })?);
        }
    }
    Ok(all)
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), RegistryError> {
    let bytes =
        serde_json::to_vec_pretty(value).map_err(|source| RegistryError::Parse { path: path.to_owned(), source })?;
    durable::write(path, &bytes, Readers::Any).map_err(|source| RegistryError::Write { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), RegistryError> {
    let removed = durable::remove_if_there(path);
    let removed = removed.and_then(|was_there| if was_there { durable::sync_dir_of(path) } else { Ok(()) });
    removed.map_err(|source| RegistryError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::{Registry, Unfinished};
    use crate::spec::{Access, Ack, Arbiter, OnQuorumLoss, Policing, Spec};
    use crate::state_dir::StateDir;

    fn spec(id: u8) -> Spec {
        Spec {
            name: "v1".into(),
            id: [id; 16],
            generation: 9,
            size_bytes: 4096,
            ack: Ack::Disk,
            on_quorum_loss: OnQuorumLoss::Suspend,
            access: Access::SingleWriter,
            arbiter: Arbiter::Peers,
            policing: Policing::Peer,
            replicas: [(1, 5), (2, 6)].into(),
            tie_breaker: None,
        }
    }

    #[test]
    fn memory_survives_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::new(dir.path());
        let registry = Registry::open(&state).expect("new");
        assert!(registry.put_volume(&spec(1)).expect("written"));
        let work = Unfinished::Delete { spec: spec(2), pending: vec![2], leases_deleted: false };
        registry.put_unfinished(&work).expect("written");
        std::fs::write(state.volumes().join("v2.new"), "half").expect("writable");

        let registry = Registry::open(&state).expect("again");
        assert_eq!(registry.volume("v1"), Some(spec(1)));
        assert_eq!(registry.unfinished(), [work]);
        registry.finish(&spec(2)).expect("removed");
        assert!(registry.forget_volume("v1", [1; 16]).expect("removed"));
        let registry = Registry::open(&state).expect("again");
        assert!(registry.volumes().is_empty() && registry.unfinished().is_empty());
    }

    #[test]
    fn a_name_belongs_to_one_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        let registry = Registry::open(&StateDir::new(dir.path())).expect("new");
        assert!(registry.put_volume(&spec(1)).expect("written"));
        assert!(registry.put_volume(&spec(1)).expect("written"));
        assert!(!registry.put_volume(&spec(2)).expect("written"));
        assert!(!registry.forget_volume("v1", [2; 16]).expect("looked"));
        assert_eq!(registry.volume("v1"), Some(spec(1)));
    }
}
