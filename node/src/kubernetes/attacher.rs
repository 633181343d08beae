//! Attaching for the CSI services: makes this node a member of the volume first, and ends that with the attachment.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use lockstep_api::{FrontEnd, Fuse, MirrorReplica, MirrorReplicaSpec, MirrorVolumeSpec, ReplicaRole, names};
use lockstep_csi::health::{StorageHealth, StorageSeverity};
use lockstep_csi::node_port::Cause;
use lockstep_csi::readiness::Readiness;
use lockstep_csi::volume::VolumeId;
use lockstep_proto::node::v1 as proto;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cluster_agent::ClusterAgent;
use super::objects::RequestError;
use super::part_work::spec_of;
use crate::csi::agent_attach::{describe, explain_detach};
use crate::csi::attach_port::{
    Attach, AttachError, DetachError, DeviceNumber, Ending, Mode, ObserveError, VolumeHere, front_end_mounts,
};
use crate::failure::{Failure, Kind};
use crate::host::fuse;
use crate::rpc;
use crate::spec::Spec;

/// How often something is looked at that nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Messages of progress that wait: only the last one counts.
const PROGRESS_QUEUED: usize = 4;

/// Whom an error names.
const ENGINE: &str = "the engine";
const API_SERVER: &str = "the API server";

/// Attaches volumes on this node.
#[derive(Clone)]
pub(crate) struct Attacher(Arc<ClusterAgent>);

impl std::fmt::Debug for Attacher {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Attacher")
    }
}

impl Attacher {
    pub(crate) fn new(shell: Arc<ClusterAgent>) -> Self {
        Self(shell)
    }

    /// This node's part of a volume, which is made if there is none, and is known to the engine at the end.
    async fn ensure_part(&self, volume: &str, deadline: Instant) -> Result<Spec, AttachError> {
        let ClusterAgent { agent, objects, .. } = &*self.0;
        let mut changes = objects.parts.changes();
        let mut waits_for;
        loop {
            match objects.part(volume) {
                Some(part) if part.metadata.deletion_timestamp.is_none() => {
                    let spec = spec_of(&part).map_err(explain)?;
                    match self.ensure_made(&part, &spec).await.map_err(explain)? {
                        true => return Ok(spec),
                        false => waits_for = "this node's part of it is being made",
                    }
                }
                Some(_) => waits_for = "this node's former part of it is being taken away",
                None if !objects.parts.is_listed() => {
                    // The API server has been away since this program started; what the engine has can be attached all the same.
                    if let Some(spec) = agent.known_volume(volume)
                        && agent.has_part(volume).await.map_err(explain)?
                    {
                        return Ok(spec);
                    }
                    waits_for = "this node's parts are not known yet";
                }
                None => {
                    self.make_attachment(volume).await?;
                    waits_for = "this node is being made a member of it";
                }
            }
            if Instant::now() >= deadline {
                return Err(match objects.parts.is_listed() {
                    true => AttachError::StillWaiting { state: waits_for.to_owned() },
                    false => not_reachable(API_SERVER, waits_for),
                });
            }
            // The engine is asked again even if no object changes.
            let _ = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
        }
    }

    /// Whether the engine has the part now. A member without data is made at once, everything else by who looks after the parts.
    async fn ensure_made(&self, part: &MirrorReplica, spec: &Spec) -> Result<bool, Failure> {
        if self.0.agent.has_part(&spec.name).await? {
            self.0.agent.register_here(spec)?;
            return Ok(true);
        }
        if part.spec.role == ReplicaRole::Attachment {
            self.0.admit(spec).await?;
            return Ok(true);
        }
        match &part.status {
            Some(status) if status.phase == lockstep_api::Phase::Failed => {
                Err(Failure::state_forbids(status.message.clone()))
            }
            _ => Ok(false),
        }
    }

    /// Makes the object that makes this node a member without data.
    async fn make_attachment(&self, volume: &str) -> Result<(), AttachError> {
        let objects = &self.0.objects;
        let wanted = objects.volume(volume).await.map_err(explain_request)?;
        let wanted = wanted.filter(|wanted| wanted.metadata.deletion_timestamp.is_none());
        let Some(wanted) = wanted else { return Err(AttachError::UnknownVolume) };
        if !wanted.spec.remote_access {
            let reason = "it was created without remote access, and this node has no replica of it".to_owned();
            return Err(AttachError::Unsupported { reason });
        }
        let id = wanted.status.as_ref().and_then(|status| status.id.clone());
        let parts = objects.parts_of(volume).await.map_err(explain_request)?;
        let same = |part: &&MirrorReplica| {
            part.metadata.deletion_timestamp.is_none() && id.as_ref().is_none_or(|id| *id == part.spec.definition.id)
        };
        let Some(other) = parts.iter().find(same) else {
            return Err(AttachError::StillWaiting { state: "it has no parts yet".to_owned() });
        };
        let spec = MirrorReplicaSpec {
            volume: volume.to_owned(),
            node_name: objects.me.clone(),
            role: ReplicaRole::Attachment,
            definition: other.spec.definition.clone(),
            joins: true,
            size_bytes: None,
            resync_rate: 0,
            ack: None,
            write_priority: None,
            members: Vec::new(),
        };
        let mut part = MirrorReplica::new(&names::replica_name(volume, &objects.me), spec);
        part.labels_mut().insert(names::LABEL_VOLUME.to_owned(), volume.to_owned());
        part.finalizers_mut().push(names::FINALIZER_REPLICA.to_owned());
        match objects.create_part(&part).await {
            // Made by an earlier call, or by the controller just now: the watch tells.
            Ok(()) | Err(RequestError::Conflict) => Ok(()),
            Err(error) => Err(explain_request(error)),
        }
    }

    /// How the volume is to be attached. What cannot be asked now is as it was last, or as most are.
    async fn settings(&self, volume: &str) -> Option<MirrorVolumeSpec> {
        match self.0.objects.volume(volume).await {
            Ok(found) => found.map(|found| found.spec),
            Err(_) => self.0.objects.volumes.get(volume).map(|known| known.spec.clone()),
        }
    }

    /// Why an attach was not decided in time.
    async fn explain_wait(&self, volume: &str, failure: &Failure, last: Option<String>) -> AttachError {
        let Some(engine) = self.0.engine.identity() else { return not_reachable(ENGINE, &failure.message) };
        tracing::debug!(volume, incarnation = engine.incarnation, "attach_not_decided_in_time");
        let me = &self.0.objects.me;
        if let Ok(status) = self.0.agent.engine_status(volume).await {
            let lives =
                |node: &&String| *node != me && status.peers.iter().any(|peer| peer.node == **node && peer.reachable);
            let holder = status.writers.iter().find(lives);
            if let Some(holder) = holder.filter(|_| status.access() == proto::Access::SingleWriter) {
                return AttachError::HeldElsewhere { holder: holder.clone() };
            }
        }
        AttachError::StillWaiting { state: last.unwrap_or_else(|| failure.message.clone()) }
    }

    async fn attach_by(&self, (name, mode): (&str, Mode), deadline: Instant) -> Result<DeviceNumber, AttachError> {
        self.ensure_part(name, deadline).await?;
        let settings = self.settings(name).await;
        let within = deadline.saturating_duration_since(Instant::now());
        let mut request = proto::AttachVolumeRequest {
            volume: name.to_owned(),
            take_over: true,
            timeout_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1),
            ..Default::default()
        };
        request.set_mode(match mode {
            Mode::ReadWrite => proto::AttachMode::ReadWrite,
            Mode::ReadOnly => proto::AttachMode::ReadOnly,
        });
        request.set_front_end(match settings.as_ref().map(|settings| settings.front_end).unwrap_or_default() {
            // Whatever else this node has, a pod needs a block device.
            FrontEnd::Auto | FrontEnd::Loop => proto::FrontEnd::Loop,
        });
        request.set_fuse(match settings.map(|settings| settings.fuse).unwrap_or_default() {
            Fuse::Recoverable => proto::Fuse::Recoverable,
            Fuse::IoUring => proto::Fuse::IoUring,
        });
        loop {
            let (events, mut progress) = mpsc::channel(PROGRESS_QUEUED);
            let listening = tokio::spawn(async move {
                let mut last = None;
                while let Some(Ok(proto::AttachVolumeEvent { event })) = progress.recv().await {
                    if let Some(proto::attach_volume_event::Event::Progress(step)) = event {
                        last = Some(step.step);
                    }
                }
                last
            });
            let attached = self.0.agent.attach(request.clone(), &events).await;
            drop(events);
            let last = listening.await.unwrap_or_default();
            match attached {
                Ok(attached) => {
                    return Ok(DeviceNumber { major: attached.device_major, minor: attached.device_minor });
                }
                // The engine is just starting, or opens the volume.
                Err(failure) if failure.kind == Kind::NotReachable && Instant::now() < deadline => {
                    tracing::debug!(volume = name, %failure, "attach_is_tried_again");
                    let within = deadline.saturating_duration_since(Instant::now());
                    request.timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1);
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(failure) if failure.kind == Kind::NotReachable => {
                    return Err(self.explain_wait(name, &failure, last).await);
                }
                Err(failure) => return Err(explain(failure)),
            }
        }
    }

    async fn detach_by(&self, name: &str, ending: Ending, within: Duration) -> Result<(), DetachError> {
        let ClusterAgent { agent, objects, .. } = &*self.0;
        if ending == Ending::ByForce {
            // The agent refuses while something is mounted; the engine does not ask.
            let request = proto::EngineDetachRequest { volume: name.to_owned(), force: true };
            match rpc::answer(ENGINE, within, agent.engine().detach(request)).await {
                Ok(_) => {}
                Err(failure) if failure.kind == Kind::WrongInput => {}
                Err(failure) => return Err(explain_detach(failure)),
            }
        }
        let known = match agent.detach(name).await {
            Ok(_) => true,
            Err(failure) if failure.kind == Kind::WrongInput => false,
            Err(failure) => return Err(explain_detach(failure)),
        };
        if let Some(part) = objects.part(name)
            && part.spec.role == ReplicaRole::Attachment
            && part.metadata.deletion_timestamp.is_none()
        {
            // What cannot be told now is told later.
            if let Err(error) = objects.delete_part(&part).await {
                tracing::info!(volume = name, %error, "attachment_not_given_up_yet");
                self.0.in_use.give_up(name);
            }
            return Ok(());
        }
        if known { Ok(()) } else { Err(DetachError::UnknownVolume) }
    }
}

impl Attach for Attacher {
    async fn attach(&self, volume: &VolumeId, mode: Mode, within: Duration) -> Result<DeviceNumber, AttachError> {
        let _used = self.0.in_use.mark(volume.as_str());
        self.attach_by((volume.as_str(), mode), Instant::now() + within).await
    }

    async fn detach(&self, volume: &VolumeId, ending: Ending, within: Duration) -> Result<(), DetachError> {
        let _used = self.0.in_use.mark(volume.as_str());
        self.detach_by(volume.as_str(), ending, within).await
    }

    async fn fail_fast(&self, volume: &VolumeId) -> Result<(), Cause> {
        let mount = front_end_mounts(self.0.agent.state()).join(volume.as_str());
        tokio::task::spawn_blocking(move || fuse::fail_requests(&mount)).await?.map_err(Cause::from)
    }

    async fn observe(&self, volume: &VolumeId) -> Result<VolumeHere, ObserveError> {
        match self.0.agent.engine_status(volume.as_str()).await {
            Ok(status) => Ok(describe(&status)),
            Err(failure) if failure.kind == Kind::WrongInput => Err(ObserveError::UnknownVolume),
            Err(failure) => Err(ObserveError::NotReachable { whom: ENGINE.to_owned(), source: failure.message.into() }),
        }
    }

    async fn readiness(&self) -> Readiness {
        match self.0.engine.identity() {
            Some(_) => Readiness::Ready,
            None => Readiness::Starting,
        }
    }

    async fn storage_health(&self) -> Result<Vec<StorageHealth>, ObserveError> {
        let wrong = |severity, reason, message: String| StorageHealth { severity, reason, message, capability: None };
        let mut health = Vec::new();
        if self.0.engine.identity().is_none() {
            let message = "the engine does not answer its agent".to_owned();
            health.push(wrong(StorageSeverity::Unreachable, "EngineNotReady", message));
        }
        if let Some(pool) = self.0.agent.describe_pool().filter(|pool| !pool.ready) {
            health.push(wrong(StorageSeverity::Degraded, "PoolNotReady", pool.reason));
        }
        Ok(health)
    }
}

fn not_reachable(whom: &str, why: &str) -> AttachError {
    AttachError::NotReachable { whom: whom.to_owned(), source: why.into() }
}

fn explain_request(error: RequestError) -> AttachError {
    match error {
        RequestError::Missing => AttachError::UnknownVolume,
        RequestError::Refused(reason) => AttachError::Forbidden { reason },
        RequestError::Conflict | RequestError::NotReachable(_) => not_reachable(API_SERVER, &error.to_string()),
    }
}

/// What a failure of the agent or the engine means that waiting does not change.
fn explain(failure: Failure) -> AttachError {
    match (failure.kind, failure.holder) {
        (Kind::StateForbids, Some(holder)) => AttachError::HeldElsewhere { holder },
        (Kind::StateForbids, None) => AttachError::Forbidden { reason: failure.message },
        (Kind::WrongInput, _) => AttachError::Unsupported { reason: failure.message },
        (Kind::NotReachable, _) => not_reachable(ENGINE, &failure.message),
        (Kind::Other, _) => AttachError::Other { source: failure.message.into() },
    }
}
