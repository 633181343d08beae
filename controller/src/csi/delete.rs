//! DeleteVolume: refused while the volume is used; else the object goes, and answers when the nodes that are there have deleted
//! their parts.

use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use lockstep_api::{MirrorReplica, MirrorVolume};
use lockstep_csi::controller_port::DeleteError;
use lockstep_csi::volume::VolumeId;

use super::Port;
use crate::plan::status::{DELETION_BLOCKED, IN_USE, NODES_AWAY, users};
use crate::reconcile::apply::{self, ApplyError};

/// How long a node may take to say that it has let a volume go: it looks every second.
const SAID_WITHIN: Duration = Duration::from_secs(5);

impl Port {
    pub(super) async fn delete(&self, id: &VolumeId, within: Duration) -> Result<(), DeleteError> {
        let deadline = Instant::now() + within;
        let found = self.read(id).await.map_err(|error| DeleteError::Uncertain { source: Box::new(error) })?;
        let Some(volume) = found else { return Ok(()) };
        if volume.metadata.deletion_timestamp.is_none() {
            self.wait_unused(&volume, deadline).await?;
            match apply::delete(&self.cluster.client, &volume).await {
                // Another of this name by now: the one that was asked about is gone.
                Ok(()) | Err(ApplyError::Conflict) => {}
                Err(error @ ApplyError::Refused { .. }) => return Err(DeleteError::Failed { source: Box::new(error) }),
                Err(error) => return Err(DeleteError::Uncertain { source: Box::new(error) }),
            }
        }
        self.wait_deleted(&volume, deadline).await
    }

    /// A node that has let the volume go says so a moment later, and the objects that say it come here later still.
    async fn wait_unused(&self, volume: &MirrorVolume, deadline: Instant) -> Result<(), DeleteError> {
        let name = volume.name_any();
        let users = || self.cluster.volume(&name).map_or_else(|| self.users_of(volume), |found| self.users_of(&found));
        let within = deadline.saturating_duration_since(Instant::now()).min(SAID_WITHIN);
        match self.cluster.until(within, || users().is_empty().then_some(())).await {
            Some(()) => Ok(()),
            None => Err(DeleteError::InUse { nodes: users() }),
        }
    }

    fn users_of(&self, volume: &MirrorVolume) -> Vec<String> {
        let parts = self.cluster.parts(&volume.name_any());
        let parts: Vec<&MirrorReplica> = parts.iter().map(|part| &**part).collect();
        users(volume, &parts, &self.cluster.lost_nodes())
    }

    async fn wait_deleted(&self, volume: &MirrorVolume, deadline: Instant) -> Result<(), DeleteError> {
        let (name, uid) = (volume.name_any(), volume.uid());
        let look = |believe_in_use: bool| {
            let Some(volume) = self.cluster.volume(&name).filter(|found| found.uid() == uid) else {
                return Some(Ok(()));
            };
            let conditions = &volume.status.as_ref()?.conditions;
            let blocked = conditions.iter().find(|it| it.type_ == DELETION_BLOCKED && it.status == "True")?;
            match blocked.reason.as_str() {
                // Whoever is away finishes when it is back: nothing of it is reachable for anybody.
                NODES_AWAY => Some(Ok(())),
                IN_USE if believe_in_use => Some(Err(DeleteError::InUse { nodes: self.users_of(&volume) })),
                _ => None,
            }
        };
        let left = || deadline.saturating_duration_since(Instant::now());
        // That it is in use may have been true until a moment ago.
        let mut found = self.cluster.until(left().min(SAID_WITHIN), || look(false)).await;
        if found.is_none() {
            found = self.cluster.until(left(), || look(true)).await;
        }
        found.unwrap_or_else(|| {
            Err(DeleteError::StillWorking { state: "its nodes are deleting their parts".to_owned() })
        })
    }
}
