//! Volumes in memory, as both ports see them, and what the ports were last asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstep_csi::capability::Capability;
use lockstep_csi::controller_port::{CreateVolume, Parameters, Volume};
use lockstep_csi::node_port::{PublishVolume, StageVolume};
use lockstep_csi::path::AbsolutePath;
use lockstep_csi::publications::Publication;
use lockstep_csi::readiness::Readiness;
use lockstep_csi::volume::VolumeId;

use crate::gate::Gate;

/// What all volumes together can have, in bytes.
pub const ROOM_BYTES: u64 = 1 << 44;

/// A volume.
#[derive(Debug)]
pub struct Stored {
    pub volume: Volume,
    pub request: CreateVolume,
    pub attributes: Parameters,
    pub staged: Option<(AbsolutePath, Capability)>,
    pub published: Vec<Publication>,
    /// Another node that has it attached.
    pub held_by: Option<String>,
}

/// What the ports were last asked.
#[derive(Debug, Default)]
pub struct Asked {
    pub create: Option<(CreateVolume, Duration)>,
    pub stage: Option<StageVolume>,
    pub publish: Option<PublishVolume>,
}

/// The state behind both ports.
#[derive(Debug)]
pub struct Cluster {
    volumes: Mutex<BTreeMap<VolumeId, Stored>>,
    asked: Mutex<Asked>,
    pub readiness: Mutex<Readiness>,
    /// What is put into the context of new volumes.
    pub context: Mutex<BTreeMap<String, String>>,
    pub node_id: Mutex<String>,
    pub creation: Gate,
    pub staging: Gate,
    pub usage: Gate,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            volumes: Mutex::default(),
            asked: Mutex::default(),
            readiness: Mutex::new(Readiness::Ready),
            context: Mutex::new([("lockstep.storage/replicas".to_owned(), "2".to_owned())].into()),
            node_id: Mutex::new("node-a".to_owned()),
            creation: Gate::default(),
            staging: Gate::default(),
            usage: Gate::default(),
        }
    }
}

impl Cluster {
    pub fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Stored>> {
        lock(&self.volumes)
    }

    pub fn asked(&self) -> MutexGuard<'_, Asked> {
        lock(&self.asked)
    }
}

/// A test that panicked elsewhere fails by itself.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
