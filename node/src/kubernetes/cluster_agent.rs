//! The agent in a cluster: the agent of the node, and what it knows of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockstep_api::{MirrorPool, MirrorReplica};

use super::engine_seen::EngineSeen;
use super::events::Events;
use super::objects::Objects;
use super::reports::Reports;
use crate::agent::Agent;
use crate::cluster::{Cluster, PoolPlace};
use crate::host::durable::{self, Readers};

/// What all tasks of the program share.
pub(crate) struct ClusterAgent {
    pub(super) agent: Arc<Agent>,
    pub(super) objects: Arc<Objects>,
    pub(super) engine: EngineSeen,
    pub(super) pool_reports: Reports<MirrorPool>,
    pub(super) part_reports: Reports<MirrorReplica>,
    pub(super) events: Events,
    pub(super) in_use: InUse,
    /// Volumes that the engine has a part of and no MirrorReplica wants.
    pub(super) unwanted: Mutex<Vec<String>>,
}

impl ClusterAgent {
    pub(super) fn new(agent: Arc<Agent>, objects: Arc<Objects>) -> Self {
        Self {
            pool_reports: Reports::new(Arc::clone(&objects.pools), objects.pools_api()),
            part_reports: Reports::new(Arc::clone(&objects.parts), objects.parts_api()),
            events: Events::new(objects.client.clone(), &objects.me),
            engine: EngineSeen::default(),
            in_use: InUse::default(),
            unwanted: Mutex::default(),
            agent,
            objects,
        }
    }
}

/// Volumes that somebody here is just attaching or detaching: their parts are not given up meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct InUse(Arc<Mutex<Uses>>);

#[derive(Debug, Default)]
struct Uses {
    /// With how many do.
    running: BTreeMap<String, usize>,
    /// Detached for good, as far as is known: who looks after the parts need not wait whether they are used again.
    given_up: BTreeSet<String>,
}

/// Marks a volume for as long as it is kept.
#[derive(Debug)]
pub(super) struct Use {
    in_use: InUse,
    volume: String,
}

impl InUse {
    pub(super) fn mark(&self, volume: &str) -> Use {
        let mut uses = self.lock();
        *uses.running.entry(volume.to_owned()).or_default() += 1;
        uses.given_up.remove(volume);
        Use { in_use: self.clone(), volume: volume.to_owned() }
    }

    pub(super) fn contains(&self, volume: &str) -> bool {
        self.lock().running.contains_key(volume)
    }

    /// It was detached, and its part could not be given up then.
    pub(super) fn give_up(&self, volume: &str) {
        self.lock().given_up.insert(volume.to_owned());
    }

    pub(super) fn is_given_up(&self, volume: &str) -> bool {
        self.lock().given_up.contains(volume)
    }

    fn lock(&self) -> MutexGuard<'_, Uses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut uses = self.in_use.lock();
        if let Some(count) = uses.running.get_mut(&self.volume) {
            *count -= 1;
            if *count == 0 {
                uses.running.remove(&self.volume);
            }
        }
    }
}

/// Where a MirrorPool says that its replicas are.
pub(super) fn pool_place(pool: &MirrorPool) -> Option<PoolPlace> {
    let storage = pool.spec.storage.as_ref()?;
    let device = storage.device.as_ref().map(|device| PoolPlace::Device(device.into()));
    device.or_else(|| storage.directory.as_ref().map(|directory| PoolPlace::Directory(directory.into())))
}

/// Writes the cluster file, whole and durably: an engine that starts reads the old or the new one. It holds the key.
pub(super) fn write_cluster(path: &Path, cluster: &Cluster) -> std::io::Result<()> {
    durable::write(path, cluster.to_toml().as_bytes(), Readers::Owner)
}

#[cfg(test)]
mod tests {
    use super::InUse;

    #[test]
    fn a_volume_is_in_use_until_the_last_user_is_gone() {
        let in_use = InUse::default();
        let (first, second) = (in_use.mark("v"), in_use.mark("v"));
        drop(first);
        assert!(in_use.contains("v") && !in_use.contains("w"));
        drop(second);
        assert!(!in_use.contains("v"));
        in_use.give_up("v");
        assert!(in_use.is_given_up("v"));
        let _again = in_use.mark("v");
        assert!(!in_use.is_given_up("v"), "it is wanted again");
    }
}
