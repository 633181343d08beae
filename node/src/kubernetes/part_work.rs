//! What is done about a part: each piece of work is carried out by the agent that every node has, and may be repeated.

use lockstep_api::MirrorReplica;
use lockstep_proto::node::v1 as proto;

use super::cluster_agent::ClusterAgent;
use super::definition::parse_definition;
use crate::failure::{Failure, Kind};
use crate::spec::Spec;

/// Work on one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// One of those that the volume is made of.
    Make,
    /// A member without data of a volume that exists.
    Admit,
    /// A replica or the tie-breaker of a volume that exists.
    Join,
    /// Take a member that is not wanted any more out of the volume.
    Remove {
        /// Which node's part.
        node_id: u32,
    },
    /// Take it away, then let the object go.
    Delete,
    /// Mark the object of an attachment that nobody uses.
    Abandon,
    /// Make the volume larger.
    Resize {
        /// Wanted.
        size_bytes: u64,
    },
    /// Change its acknowledgement level.
    SetAck {
        /// Wanted.
        ack: proto::Ack,
    },
    /// Change its priority.
    SetPriority {
        /// Wanted.
        priority: proto::Priority,
    },
    /// Limit its resync.
    LimitResync {
        /// 0: no limit.
        bytes_per_second: u64,
    },
}

impl ClusterAgent {
    pub(super) async fn carry_out(&self, object: &MirrorReplica, work: &Work) -> Result<(), Failure> {
        let volume = object.spec.volume.clone();
        match work {
            Work::Make => self.agent.create_here(&spec_of(object)?).await,
            Work::Admit => self.admit(&spec_of(object)?).await,
            Work::Join => self.join(object).await,
            Work::Remove { node_id } => self.remove(object, *node_id).await,
            Work::Delete => self.delete(object).await,
            Work::Abandon => {
                tracing::info!(volume, "attachment_abandoned");
                self.objects.delete_part(object).await.map_err(|error| Failure::not_reachable(error.to_string()))
            }
            Work::Resize { size_bytes } => {
                self.agent.resize_here(proto::ResizeVolumeRequest { volume, size_bytes: *size_bytes }).await
            }
            Work::SetAck { ack } => {
                self.agent.set_ack(proto::SetAckRequest { volume, ack: (*ack).into() }).await.map(drop)
            }
            Work::SetPriority { priority } => {
                let request = proto::SetPriorityRequest { volume, priority: (*priority).into() };
                self.agent.set_priority(request).await.map(drop)
            }
            Work::LimitResync { bytes_per_second } => {
                let request = proto::LimitResyncRequest { volume, bytes_per_second: *bytes_per_second };
                self.agent.limit_resync(request).await.map(drop)
            }
        }
    }

    async fn delete(&self, object: &MirrorReplica) -> Result<(), Failure> {
        let spec = spec_of(object)?;
        self.leave(object, &spec).await?;
        self.clear_leftover(&spec).await?;
        self.agent.delete_here(&spec.name, spec.id).await?;
        tracing::info!(volume = spec.name, "part_deleted");
        self.objects.release_part(object).await.map_err(|error| Failure::not_reachable(error.to_string()))
    }

    /// A device whose attachment ended without being asked is in the way of nothing but its volume's end.
    async fn clear_leftover(&self, spec: &Spec) -> Result<(), Failure> {
        let status = match self.agent.engine_status(&spec.name).await {
            Ok(status) if status.id == crate::input::to_hex(&spec.id) => status,
            Ok(_) => return Ok(()),
            Err(failure) if matches!(failure.kind, Kind::WrongInput | Kind::StateForbids) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let this = status.this_node.unwrap_or_default();
        let attached = !matches!(this.attached(), proto::AttachMode::Unspecified | proto::AttachMode::None);
        if attached || this.device.is_empty() {
            return Ok(());
        }
        self.agent.detach(&spec.name).await.map(drop)
    }
}

/// The volume that a part is of.
pub(super) fn spec_of(object: &MirrorReplica) -> Result<Spec, Failure> {
    parse_definition(&object.spec.volume, &object.spec.definition)
}
