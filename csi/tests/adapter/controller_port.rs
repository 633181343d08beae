//! The controller's port, in memory.

use std::sync::Arc;
use std::time::Duration;

use lockstep_csi::capability::Capability;
use lockstep_csi::capacity::{CapacityRange, Growth, LARGEST_BYTES};
use lockstep_csi::controller_port::{
    Capacity, CapacityError, CapacityQuery, Confirm, ControllerPort, CreateError, CreateVolume, DeleteError,
    ExpandError, ListError, Listed, LookUpError, ModifyError, Page, Parameters, Verdict, Volume,
};
use lockstep_csi::health::{Severity, VolumeHealth};
use lockstep_csi::readiness::Readiness;
use lockstep_csi::topology::Topology;
use lockstep_csi::volume::VolumeId;

use crate::cluster::{Cluster, ROOM_BYTES, Stored, lock};

/// The mutable parameter that volumes have, with its values.
pub const PRIORITY: &str = "writePriority";
const PRIORITIES: [&str; 3] = ["low", "normal", "high"];

pub struct MemoryController(pub Arc<Cluster>);

fn check_parameters(parameters: &Parameters) -> Result<(), String> {
    match parameters.iter().find(|(key, value)| key.as_str() != "replicas" || !["2", "3"].contains(&value.as_str())) {
        Some((key, value)) => Err(format!("parameter {key} is {value:?}; replicas is \"2\" or \"3\"")),
        None => Ok(()),
    }
}

fn check_attributes(attributes: &Parameters) -> Result<(), String> {
    let wrong = |(key, value): &(&String, &String)| *key != PRIORITY || !PRIORITIES.contains(&value.as_str());
    match attributes.iter().find(wrong) {
        Some((key, value)) => Err(format!("attribute {key} is {value:?}; {PRIORITY} is one of {PRIORITIES:?}")),
        None => Ok(()),
    }
}

fn is_shared(capabilities: &[Capability]) -> bool {
    capabilities.iter().any(|it| it.mode().is_multi_node())
}

impl MemoryController {
    fn find<T>(&self, id: &VolumeId, look: impl FnOnce(&Stored) -> T) -> Result<T, LookUpError> {
        self.0.volumes().get(id).map(look).ok_or(LookUpError::UnknownVolume)
    }

    fn make(&self, request: CreateVolume) -> Result<Volume, CreateError> {
        let mut volumes = self.0.volumes();
        let id = request.id.clone();
        if let Some(there) = volumes.get(&id) {
            let same_size = request.accepts_size(there.volume.capacity_bytes);
            let difference = [
                ("size", !same_size),
                ("set of parameters", there.request.parameters != request.parameters),
                ("access", is_shared(&there.request.capabilities) != is_shared(&request.capabilities)),
            ];
            return match difference.into_iter().find(|(_, differs)| *differs) {
                Some((what, _)) => Err(CreateError::Exists { id, difference: what.to_owned() }),
                None => Ok(there.volume.clone()),
            };
        }
        if request.size_bytes > ROOM_BYTES {
            return Err(CreateError::NoRoom { reason: "no two pools have as much".to_owned() });
        }
        let topology = [("topology.csi.lockstep.storage/driver".to_owned(), "true".to_owned())];
        let volume = Volume {
            id: id.clone(),
            capacity_bytes: request.size_bytes,
            context: lock(&self.0.context).clone(),
            accessible_topology: vec![Topology { segments: topology.into() }],
        };
        let mut attributes: Parameters = [(PRIORITY.to_owned(), "normal".to_owned())].into();
        attributes.extend(request.mutable_parameters.clone());
        let stored =
            Stored { volume: volume.clone(), request, attributes, staged: None, published: vec![], held_by: None };
        volumes.insert(id, stored);
        Ok(volume)
    }

    fn page<T>(&self, page: &Page, look: impl Fn(&Stored) -> Option<T>) -> Listed<T> {
        let volumes = self.0.volumes();
        let mut all: Vec<(VolumeId, T)> = volumes
            .iter()
            .filter(|(id, _)| page.after.as_ref().is_none_or(|after| *id > after))
            .filter_map(|(id, stored)| Some((id.clone(), look(stored)?)))
            .collect();
        let more = page.entries_max.is_some_and(|max| all.len() > max);
        all.truncate(page.entries_max.unwrap_or(usize::MAX));
        Listed { entries: all, more }
    }
}

fn health(stored: &Stored) -> Vec<VolumeHealth> {
    let condition = |holder: &String| VolumeHealth {
        severity: Severity::Degraded,
        reason: "ReplicaLost",
        message: format!("{holder} is away"),
    };
    stored.held_by.iter().map(condition).collect()
}

impl ControllerPort for MemoryController {
    async fn readiness(&self) -> Readiness {
        lock(&self.0.readiness).clone()
    }

    async fn create_volume(&self, request: CreateVolume, within: Duration) -> Result<Volume, CreateError> {
        self.0.asked().create = Some((request.clone(), within));
        check_parameters(&request.parameters)
            .and_then(|()| check_attributes(&request.mutable_parameters))
            .map_err(|reason| CreateError::WrongInput { reason })?;
        self.0.creation.pass().await;
        self.make(request)
    }

    async fn delete_volume(&self, id: VolumeId, _: Duration) -> Result<(), DeleteError> {
        let mut volumes = self.0.volumes();
        if volumes.get(&id).is_some_and(|stored| stored.staged.is_some()) {
            return Err(DeleteError::InUse { nodes: vec!["node-a".to_owned()] });
        }
        volumes.remove(&id);
        Ok(())
    }

    async fn expand_volume(&self, id: VolumeId, range: CapacityRange, _: Duration) -> Result<u64, ExpandError> {
        let mut volumes = self.0.volumes();
        let stored = volumes.get_mut(&id).ok_or(ExpandError::UnknownVolume)?;
        let growth = range.growth(stored.volume.capacity_bytes);
        match growth.map_err(|error| ExpandError::OutOfRange { reason: error.to_string() })? {
            Growth::Enough => {}
            Growth::To(size) if size > ROOM_BYTES => {
                return Err(ExpandError::NoRoom { reason: "no two pools have as much".to_owned() });
            }
            Growth::To(size) => stored.volume.capacity_bytes = size,
        }
        Ok(stored.volume.capacity_bytes)
    }

    async fn modify_volume(&self, id: VolumeId, wanted: Parameters, _: Duration) -> Result<(), ModifyError> {
        let mut volumes = self.0.volumes();
        let stored = volumes.get_mut(&id).ok_or(ModifyError::UnknownVolume)?;
        check_attributes(&wanted).map_err(|reason| ModifyError::WrongInput { reason })?;
        stored.attributes.extend(wanted);
        Ok(())
    }

    async fn capacity(&self, query: CapacityQuery) -> Result<Capacity, CapacityError> {
        check_parameters(&query.parameters).map_err(|reason| CapacityError::WrongInput { reason })?;
        Ok(Capacity { available_bytes: ROOM_BYTES, largest_volume_bytes: ROOM_BYTES.min(LARGEST_BYTES) })
    }

    async fn volume(&self, id: VolumeId) -> Result<Volume, LookUpError> {
        self.find(&id, |stored| stored.volume.clone())
    }

    async fn list_volumes(&self, page: Page) -> Result<Listed<Volume>, ListError> {
        Ok(self.page(&page, |stored| Some(stored.volume.clone())))
    }

    async fn confirm(&self, question: Confirm) -> Result<Verdict, LookUpError> {
        self.find(&question.id, |stored| {
            let same = |asked: &Parameters, has: &Parameters| {
                asked.iter().all(|(key, value)| has.get(key).is_some_and(|it| it == value))
            };
            let fits = is_shared(&stored.request.capabilities) || !is_shared(&question.capabilities);
            let known = same(&question.context, &stored.volume.context)
                && same(&question.parameters, &stored.request.parameters)
                && same(&question.mutable_parameters, &stored.attributes);
            match (fits, known) {
                (true, true) => Verdict::Confirmed,
                (false, _) => Verdict::Refused { reason: "it was made for one node".to_owned() },
                (true, false) => Verdict::Refused { reason: "it was made otherwise".to_owned() },
            }
        })
    }

    async fn volume_health(&self, id: VolumeId) -> Result<Vec<VolumeHealth>, LookUpError> {
        self.find(&id, health)
    }

    async fn list_volume_health(&self, page: Page) -> Result<Listed<Vec<VolumeHealth>>, ListError> {
        Ok(self.page(&page, |stored| Some(health(stored)).filter(|found| !found.is_empty())))
    }
}
