//! A tie-breaker that lost its state: it becomes a member again, and has no vote until one is given to it.
//!
//! A vote is a memory of what was promised. Making the memory anew as it was made first would be a vote that forgot its
//! promises; so nothing here ever makes a voter or a replica, only a member that holds nothing.

use lockstep_proto::node::v1 as proto;
use proto::peer_reply::Reply;
use proto::peer_request::Request;

use super::{Agent, CHANGE_WITHIN};
use crate::failure::{Failure, Kind};
use crate::rpc;
use crate::spec::Spec;

impl Agent {
    /// The nodes to ask which volumes this one is a member of: all others if it remembers none, as after a loss of its state.
    pub(super) fn who_remembers(&self) -> Vec<u32> {
        if !self.registry.volumes().is_empty() || !self.registry.unfinished().is_empty() {
            return Vec::new();
        }
        self.cluster().nodes.iter().map(|node| node.id).filter(|id| *id != self.me.id).collect()
    }

    /// Asks them, strikes those that answered, and says whether something was learned.
    pub(super) async fn recall_volumes(&self, unheard: &mut Vec<u32>) -> bool {
        let mut learned = false;
        for (id, reply) in self.ask_all(unheard, &Request::Specs(proto::ListSpecsRequest {})).await {
            let Ok(Reply::Specs(list)) = reply else { continue };
            unheard.retain(|other| *other != id);
            for spec in list.specs.iter().filter_map(|spec| Spec::parse(spec).ok()) {
                let member = |node: u32| spec.members().any(|member| member == node);
                if !member(self.me.id) || !member(id) || self.registry.volume(&spec.name).is_some() {
                    continue;
                }
                match self.register_here(&spec) {
                    Ok(()) => {
                        tracing::warn!(
                            volume = spec.name,
                            told_by = self.cluster().name_of(id),
                            "forgotten volume recalled"
                        );
                        learned = true;
                    }
                    Err(failure) => tracing::error!(volume = spec.name, %failure, "volume cannot be recalled"),
                }
            }
        }
        learned
    }

    /// Makes this node a member again where it is the tie-breaker and its engine holds nothing. Says whether all is done.
    pub(super) async fn admit_forgotten(&self) -> bool {
        let mut done = true;
        for spec in self.registry.volumes() {
            if spec.tie_breaker != Some(self.me.id) {
                continue;
            }
            let admitted = match self.has_part(&spec.name).await {
                Ok(false) => self.admit_here(&spec).await,
                known => known.map(|_| ()),
            };
            if let Err(failure) = admitted {
                tracing::warn!(volume = spec.name, %failure, "tie-breaker without memory is not a member again yet");
                done = false;
            }
        }
        done
    }

    /// Whether this node's engine has a part of the volume, in whatever state.
    pub(crate) async fn has_part(&self, volume: &str) -> Result<bool, Failure> {
        match self.engine_status(volume).await {
            Err(failure) if failure.kind == Kind::WrongInput => Ok(false),
            // It is being opened, or cannot be used.
            Err(failure) if failure.kind == Kind::StateForbids => Ok(true),
            result => result.map(|_| true),
        }
    }

    /// Makes this node a member of a volume that exists and of which it holds nothing (any more).
    pub(crate) async fn admit_here(&self, spec: &Spec) -> Result<(), Failure> {
        let _part = self.part.lock().await;
        // Meanwhile it may have been made or deleted.
        let deleted = self.registry.volume(&spec.name).is_none_or(|known| known.id != spec.id);
        if deleted || self.has_part(&spec.name).await? {
            return Ok(());
        }
        let request = proto::CreateReplicaRequest { spec: Some(spec.to_proto()), exists: true, ..Default::default() };
        rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().create_replica(request)).await?;
        tracing::info!(volume = spec.name, "member without data and without a vote");
        Ok(())
    }
}
