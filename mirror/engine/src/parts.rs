//! Parts of volumes that exist: a node is given one, or another one than it has, while the volume is in use.
//!
//! ```text
//! nothing --------------------> memory (a voter's, a diskless member's), in the state directory
//! nothing, memory ------------> empty replica beside that memory, in the pool
//! replica (removed, failed) --> memory --> empty replica
//! ```
//! Whichever step is interrupted, what a voter has promised is kept: for as long as a part lies in both places the one in the state
//! directory counts, and the one in the pool is unfinished.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_core::{Arbiter, Config, DiskState, Incarnation, Meta, VolumeId};
use lockstep_format::disk::{Owner, Superblock};
use lockstep_format::register;

use crate::engine::{CreateVolume, Engine, FindVolume, VolumeState};
use crate::shared::next_incarnation;
use crate::storage::{self, CreateReplica, Files, OpenReplica};

/// Why a node was not given a part of a volume that exists.
#[derive(Debug, thiserror::Error)]
pub enum GivePart {
    /// It could not be made anew.
    #[error(transparent)]
    Create(#[from] CreateVolume),
    /// What is there cannot be told to stop.
    #[error(transparent)]
    Find(#[from] FindVolume),
    /// It has a front end.
    #[error("volume {0:?} is attached here")]
    Attached(String),
    /// A volume of that name with another identity is there.
    #[error("another volume is named {0:?} here")]
    Other(String),
    /// What is there cannot be read: delete it first, if it is of no use.
    #[error("what is there of volume {name:?} cannot be used: {source}")]
    Open {
        /// The volume.
        name: String,
        /// Why.
        source: OpenReplica,
    },
    /// What was there before could not be taken away.
    #[error("cannot take away what was there of volume {name:?}")]
    Delete {
        /// The volume.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The bytes of a configuration, for another node's [`Engine::give_part`].
#[must_use]
pub fn encode_configuration(config: &Config) -> Vec<u8> {
    register::encode(config)
}

/// A configuration from its bytes, checked.
///
/// # Errors
/// A sentence that says what is wrong with them.
pub fn decode_configuration(bytes: &[u8]) -> Result<Config, String> {
    register::decode(bytes).map_err(|error| error.to_string())
}

impl Engine {
    /// Gives this node a part of a volume that exists, of which `config` is any configuration that it had, the newer the better:
    /// an empty replica in the pool, or memory without data. What is there already is kept if it is that; a voter's memory is kept
    /// in any case, data that are not wanted or cannot count any more are deleted.
    ///
    /// # Errors
    /// See [`GivePart`].
    pub fn give_part(&self, name: &str, config: Config, has_data: bool) -> Result<(), GivePart> {
        let volume = config.volume;
        let found = self.list().into_iter().find(|entry| entry.name == name);
        let Some(found) = found else {
            let incarnation = self.mint_incarnation(name)?;
            let meta = match has_data {
                true => Meta::empty_replica(self.identity().node, config, incarnation, self.identity().boot),
                false => Meta::forgotten(self.identity().node, config, incarnation, self.identity().boot),
            };
            return Ok(self.make(name, self.place_of(has_data)?, meta)?);
        };
        if found.volume.is_some_and(|other| other != volume) {
            return Err(GivePart::Other(name.to_owned()));
        }
        if found.state == VolumeState::Running && self.has_that(name, has_data)? {
            return Ok(());
        }
        if self.with_attached(name, |attached| attached.is_some()) == Some(true) {
            return Err(GivePart::Attached(name.to_owned()));
        }
        if config.settings.arbiter == Arbiter::Lease && self.shared.leases.is_none() {
            return Err(CreateVolume::NoLeases.into());
        }
        let place = self.place_of(has_data)?;
        let dir = self.stop_volume(name)?;
        let files = self.reshape(name, &dir, &place, config, has_data);
        match files {
            Ok(files) => Ok(self.run_again(name, &place, files)?),
            Err(error) => {
                self.fail_volume(name, error.to_string());
                Err(error)
            }
        }
    }

    /// True if what runs here is what is wanted.
    fn has_that(&self, name: &str, has_data: bool) -> Result<bool, FindVolume> {
        let disk = self.status(name)?.wait().ok_or(FindVolume::Stopping)?.core.disk;
        Ok(match disk {
            DiskState::Diskless => !has_data,
            DiskState::Removed | DiskState::Failed(_) => false,
            DiskState::UpToDate | DiskState::Inconsistent | DiskState::Outdated => has_data,
        })
    }

    fn reshape(&self, name: &str, from: &Path, to: &Path, config: Config, has_data: bool) -> Result<Files, GivePart> {
        let open = |source| GivePart::Open { name: name.to_owned(), source };
        let node = self.identity().node;
        let before = storage::open(&from.join(name), node, true).map_err(open)?.journal.meta().clone();
        let owner = Owner { volume: config.volume, node };
        let before = Meta { incarnation: self.mint_incarnation(name)?, boot: self.identity().boot, ..before };
        let memory = self.memory_dir();
        let mut files = None;
        if from != memory {
            let meta = before.clone().reshaped(false, config.clone());
            files = Some(storage::create(&memory, name, owner, meta).map_err(CreateVolume::Files)?);
            self.take_away(from, name)?;
        }
        if !has_data {
            return files.ok_or_else(|| GivePart::Other(name.to_owned()));
        }
        drop(files);
        // What an interrupted attempt left there.
        if to.join(name).exists() {
            self.take_away(to, name)?;
        }
        let meta = before.reshaped(true, config);
        let files = storage::create(to, name, owner, meta).map_err(CreateVolume::Files)?;
        self.take_away(&memory, name)?;
        Ok(files)
    }

    fn take_away(&self, dir: &Path, name: &str) -> Result<(), GivePart> {
        storage::delete(dir, name).map_err(|source| GivePart::Delete { name: name.to_owned(), source })
    }

    /// A run of its own for a part that is new: what its predecessor in this very process numbered is not to be taken for its.
    pub(crate) fn mint_incarnation(&self, name: &str) -> Result<Incarnation, CreateVolume> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = self.state_dir().join("incarnation");
        let _one = self.minting();
        let minted = next_incarnation(&path, u64::try_from(unix.as_nanos()).unwrap_or(0));
        minted.map_err(|source| {
            tracing::error!(volume = name, %source, "no_incarnation");
            CreateVolume::Files(CreateReplica::Make { path, source })
        })
    }
}

/// The volume whose files these are, if they say.
pub(crate) fn volume_of(dir: &Path) -> Option<VolumeId> {
    let block = std::fs::read(dir.join(storage::SUPERBLOCK)).ok()?;
    Superblock::decode(&block).ok().map(|superblock| superblock.owner.volume)
}
