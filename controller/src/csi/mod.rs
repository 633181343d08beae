//! CSI's Controller service over the cluster's objects: requests become MirrorVolumes, and what the leader writes about them becomes
//! answers.
//!
//! Every replica of the controller answers, leader or not. Nothing is remembered here: a repeated request finds the object.

mod answers;
mod create;
mod delete;
mod expand;
mod modify;
pub mod parameters;
mod room;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::api::Api;
use lockstep_api::MirrorVolume;
use lockstep_csi::capacity::CapacityRange;
use lockstep_csi::controller_port as port;
use lockstep_csi::controller_port::ControllerPort;
use lockstep_csi::health::VolumeHealth;
use lockstep_csi::readiness::Readiness;
use lockstep_csi::volume::VolumeId;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::reconcile::apply::{ApplyError, send};

/// The port of the Controller service.
#[derive(Debug)]
pub struct Port {
    cluster: Arc<Cluster>,
    config: Config,
    synced: AtomicBool,
}

impl Port {
    /// A port that is starting: see [`Port::open`].
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, config: Config) -> Self {
        Self { cluster, config, synced: AtomicBool::new(false) }
    }

    /// The cluster's objects have been listed: calls can be answered.
    pub fn open(&self) {
        self.synced.store(true, Ordering::Release);
    }

    fn volumes(&self) -> Api<MirrorVolume> {
        Api::all(self.cluster.client.clone())
    }

    /// The volume as the API server has it now: what a decision to refuse is made over.
    async fn read(&self, id: &VolumeId) -> Result<Option<MirrorVolume>, ApplyError> {
        send(self.volumes().get_opt(id.as_str())).await
    }
}

impl ControllerPort for Port {
    async fn readiness(&self) -> Readiness {
        if self.synced.load(Ordering::Acquire) { Readiness::Ready } else { Readiness::Starting }
    }

    async fn create_volume(
        &self,
        request: port::CreateVolume,
        within: Duration,
    ) -> Result<port::Volume, port::CreateError> {
        self.create(&request, within).await
    }

    async fn delete_volume(&self, id: VolumeId, within: Duration) -> Result<(), port::DeleteError> {
        self.delete(&id, within).await
    }

    async fn expand_volume(
        &self,
        id: VolumeId,
        range: CapacityRange,
        within: Duration,
    ) -> Result<u64, port::ExpandError> {
        self.expand(&id, range, within).await
    }

    async fn modify_volume(
        &self,
        id: VolumeId,
        mutable_parameters: port::Parameters,
        within: Duration,
    ) -> Result<(), port::ModifyError> {
        self.modify(&id, &mutable_parameters, within).await
    }

    async fn capacity(&self, query: port::CapacityQuery) -> Result<port::Capacity, port::CapacityError> {
        self.room(&query)
    }

    async fn volume(&self, id: VolumeId) -> Result<port::Volume, port::LookUpError> {
        let volume = self.look_up(&id).await?;
        answers::answer(&volume).ok_or(port::LookUpError::UnknownVolume)
    }

    async fn list_volumes(&self, page: port::Page) -> Result<port::Listed<port::Volume>, port::ListError> {
        Ok(answers::page(&page, &self.cluster.volumes.state(), answers::answer))
    }

    async fn confirm(&self, question: port::Confirm) -> Result<port::Verdict, port::LookUpError> {
        let volume = self.look_up(&question.id).await?;
        Ok(match answers::refusal(&volume, &question) {
            Some(reason) => port::Verdict::Refused { reason },
            None => port::Verdict::Confirmed,
        })
    }

    async fn volume_health(&self, id: VolumeId) -> Result<Vec<VolumeHealth>, port::LookUpError> {
        Ok(answers::health(&*self.look_up(&id).await?))
    }

    async fn list_volume_health(&self, page: port::Page) -> Result<port::Listed<Vec<VolumeHealth>>, port::ListError> {
        let ill = |volume: &MirrorVolume| Some(answers::health(volume)).filter(|health| !health.is_empty());
        Ok(answers::page(&page, &self.cluster.volumes.state(), ill))
    }
}

impl Port {
    /// A volume that is there and not about to go.
    async fn look_up(&self, id: &VolumeId) -> Result<Box<MirrorVolume>, port::LookUpError> {
        let found = self.read(id).await.map_err(|error| port::LookUpError::Failed { source: Box::new(error) })?;
        found.map(Box::new).ok_or(port::LookUpError::UnknownVolume)
    }
}
