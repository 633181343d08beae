//! Attaching by the stand-alone agent, over its socket.

use std::time::{Duration, Instant};

use lockstep_csi::health::{Severity, StorageHealth, StorageSeverity, VolumeHealth};
use lockstep_csi::node_port::Cause;
use lockstep_csi::readiness::Readiness;
use lockstep_csi::volume::VolumeId;
use lockstep_proto::node::v1 as proto;
use lockstep_proto::node::v1::engine_client::EngineClient;
use lockstep_proto::node::v1::node_client::NodeClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::attach_port::{
    Attach, AttachError, DetachError, DeviceNumber, Ending, Mode, ObserveError, VolumeHere, front_end_mounts,
};
use crate::failure::{Failure, Kind};
use crate::host::fuse;
use crate::rpc;
use crate::state_dir::StateDir;

/// How long the agent may take beyond what it was told.
const GRACE: Duration = Duration::from_secs(35);

/// How often an agent is asked again that has just begun to start.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The agent of a node, and its state directory.
#[derive(Clone, Debug)]
pub struct AgentAttach {
    state: StateDir,
    agent: NodeClient<Channel>,
    engine: EngineClient<Channel>,
}

impl AgentAttach {
    /// The agent whose state directory this is. Must be called in a tokio runtime.
    #[must_use]
    pub fn new(state: StateDir) -> Self {
        Self {
            agent: NodeClient::new(rpc::unix_channel(state.node_socket())),
            engine: EngineClient::new(rpc::unix_channel(state.engine_socket())),
            state,
        }
    }

    async fn attach_once(&self, request: proto::AttachVolumeRequest) -> Result<proto::Attachment, (Code, Failure)> {
        let named = |status: Status| (status.code(), rpc::name_transport_error("the agent", &status));
        let mut events = self.agent.clone().attach_volume(request).await.map_err(named)?.into_inner();
        while let Some(event) = events.message().await.map_err(named)? {
            if let Some(proto::attach_volume_event::Event::Attached(attachment)) = event.event {
                return Ok(attachment);
            }
        }
        Err((Code::Unavailable, Failure::not_reachable("the agent ended before it had attached the volume")))
    }
}

/// A failure as an error's source.
fn cause(failure: &Failure) -> Cause {
    failure.message.clone().into()
}

impl Attach for AgentAttach {
    async fn attach(&self, volume: &VolumeId, mode: Mode, within: Duration) -> Result<DeviceNumber, AttachError> {
        let deadline = Instant::now() + within;
        let mut request = proto::AttachVolumeRequest {
            volume: volume.to_string(),
            take_over: true,
            timeout_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1),
            ..Default::default()
        };
        request.set_front_end(proto::FrontEnd::Loop);
        request.set_mode(match mode {
            Mode::ReadWrite => proto::AttachMode::ReadWrite,
            Mode::ReadOnly => proto::AttachMode::ReadOnly,
        });
        let timed_out =
            || AttachError::NotReachable { whom: "the agent".to_owned(), source: "it has not answered in time".into() };
        loop {
            let answered = tokio::time::timeout(within + GRACE, self.attach_once(request.clone())).await;
            match answered.map_err(|_| timed_out())? {
                Ok(attached) => {
                    return Ok(DeviceNumber { major: attached.device_major, minor: attached.device_minor });
                }
                // The agent, or its engine, is just starting.
                Err((Code::Unavailable, failure)) if failure.holder.is_none() && Instant::now() < deadline => {
                    tracing::debug!(%volume, failure = failure.message, "attaching is tried again");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err((code, failure)) => return Err(explain_attach(code, failure)),
            }
        }
    }

    async fn detach(&self, volume: &VolumeId, ending: Ending, within: Duration) -> Result<(), DetachError> {
        let name = volume.to_string();
        if ending == Ending::ByForce {
            // The agent refuses while something is mounted; the engine does not ask.
            let request = proto::EngineDetachRequest { volume: name.clone(), force: true };
            let mut engine = self.engine.clone();
            match rpc::answer("the engine", within, engine.detach(request)).await {
                Ok(_) => {}
                Err(failure) if failure.kind == Kind::WrongInput => return Err(DetachError::UnknownVolume),
                Err(failure) => return Err(explain_detach(failure)),
            }
        }
        let request = proto::DetachVolumeRequest { volume: name };
        match rpc::answer("the agent", within, self.agent.clone().detach_volume(request)).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.kind == Kind::WrongInput => Err(DetachError::UnknownVolume),
            Err(failure) => Err(explain_detach(failure)),
        }
    }

    async fn fail_fast(&self, volume: &VolumeId) -> Result<(), Cause> {
        let mount = front_end_mounts(&self.state).join(volume.as_str());
        tokio::task::spawn_blocking(move || fuse::fail_requests(&mount)).await?.map_err(Cause::from)
    }

    async fn observe(&self, volume: &VolumeId) -> Result<VolumeHere, ObserveError> {
        let request = proto::GetVolumeRequest { volume: volume.to_string() };
        match rpc::answer("the agent", rpc::ANSWER_WITHIN, self.agent.clone().get_volume(request)).await {
            Ok(status) => Ok(describe(&status)),
            Err(failure) if failure.kind == Kind::WrongInput => Err(ObserveError::UnknownVolume),
            Err(failure) => Err(ObserveError::NotReachable { whom: "the agent".to_owned(), source: cause(&failure) }),
        }
    }

    async fn readiness(&self) -> Readiness {
        match self.state.node_socket().exists() {
            true => Readiness::Ready,
            false => Readiness::Starting,
        }
    }

    async fn storage_health(&self) -> Result<Vec<StorageHealth>, ObserveError> {
        let mut agent = self.agent.clone();
        let call = rpc::answer("the agent", rpc::ANSWER_WITHIN, agent.get_node(proto::GetNodeRequest {}));
        let node = call
            .await
            .map_err(|failure| ObserveError::NotReachable { whom: "the agent".to_owned(), source: cause(&failure) })?;
        let wrong = |severity, reason, message: &str| StorageHealth {
            severity,
            reason,
            message: message.to_owned(),
            capability: None,
        };
        let mut health = Vec::new();
        if !node.engine_ready {
            health.push(wrong(StorageSeverity::Unreachable, "EngineNotReady", &node.engine_reason));
        }
        if let Some(pool) = node.pool.filter(|pool| !pool.ready) {
            health.push(wrong(StorageSeverity::Degraded, "PoolNotReady", &pool.reason));
        }
        Ok(health)
    }
}

/// What the status of a volume means for whoever uses it here.
#[must_use]
pub fn describe(status: &proto::VolumeStatus) -> VolumeHere {
    let this = status.this_node.clone().unwrap_or_default();
    let attached = match this.attached() {
        proto::AttachMode::ReadWrite => Some(Mode::ReadWrite),
        proto::AttachMode::ReadOnly => Some(Mode::ReadOnly),
        proto::AttachMode::Unspecified | proto::AttachMode::None => None,
    };
    let condition = |severity, reason, message: String| vec![VolumeHealth { severity, reason, message }];
    let replicas: Vec<&str> =
        status.replicas.iter().filter(|replica| !replica.in_sync).map(|replica| replica.node.as_str()).collect();
    let health = match status.state() {
        proto::VolumeState::Suspended => {
            condition(Severity::Inaccessible, "Suspended", "it waits for a quorum, a peer or an operator".to_owned())
        }
        proto::VolumeState::Failed => condition(Severity::Inaccessible, "Failed", this.reason.clone()),
        proto::VolumeState::Degraded | proto::VolumeState::Joining => {
            let message = format!("replicas not in sync: {}", replicas.join(", "));
            condition(Severity::Degraded, "Degraded", message)
        }
        proto::VolumeState::Unspecified
        | proto::VolumeState::Starting
        | proto::VolumeState::UpToDate
        | proto::VolumeState::Left
        | proto::VolumeState::Elsewhere => Vec::new(),
    };
    let several_writers = status.access() == proto::Access::MultiWriter;
    VolumeHere { size_bytes: status.size_bytes, several_writers, attached, health }
}

/// What a failed attach means.
#[must_use]
pub fn explain_attach(code: Code, failure: Failure) -> AttachError {
    match (failure.kind, failure.holder.clone()) {
        (Kind::WrongInput, _) if code == Code::NotFound || failure.field.as_deref() == Some("volume") => {
            AttachError::UnknownVolume
        }
        (Kind::WrongInput, _) => AttachError::Unsupported { reason: failure.message },
        (Kind::StateForbids, Some(holder)) => AttachError::HeldElsewhere { holder },
        (Kind::StateForbids, None) => AttachError::Forbidden { reason: failure.message },
        // The wait ran out, or nobody decided: that may change.
        (Kind::NotReachable, _) => AttachError::StillWaiting { state: failure.message },
        (Kind::Other, _) => AttachError::Other { source: cause(&failure) },
    }
}

/// What a failed detach means, unless the volume is unknown.
#[must_use]
pub fn explain_detach(failure: Failure) -> DetachError {
    match failure.kind {
        Kind::StateForbids => DetachError::InUse { reason: failure.message },
        Kind::NotReachable => DetachError::NotReachable { whom: "the engine".to_owned(), source: cause(&failure) },
        Kind::WrongInput | Kind::Other => DetachError::Other { source: cause(&failure) },
    }
}
