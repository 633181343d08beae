//! Deleting a volume: nowhere while it is attached anywhere, else on every node, however long one stays away; then its Leases.

use lockstep_proto::node::v1 as proto;
use proto::peer_reply::Reply;
use proto::peer_request::Request;

use super::registry::Unfinished;
use super::{Agent, CHANGE_WITHIN};
use crate::failure::{Failure, Kind};
use crate::spec::{Arbiter, Spec};
use crate::{input, rpc};

impl Agent {
    pub(super) async fn delete(
        &self,
        request: proto::DeleteVolumeRequest,
    ) -> Result<proto::DeleteVolumeReply, Failure> {
        self.check_keeper("delete one")?;
        let _changing = self.changing.lock().await;
        let spec = self.volume(&request.volume).await?;
        self.check_not_attached(&spec, request.allow_absent).await?;
        if spec.arbiter == Arbiter::Lease {
            self.leases()?;
        }
        let pending: Vec<u32> = self.cluster().nodes.iter().map(|node| node.id).collect();
        let work = Unfinished::Delete { spec: spec.clone(), pending: pending.clone(), leases_deleted: false };
        self.registry.put_unfinished(&work).map_err(|error| Failure::of_host("write down the deletion", &error))?;
        let (pending, leases) = self.carry_on_delete(&spec, pending, false).await;
        // Only members hold something that matters; the others forget a name.
        let pending_nodes = pending
            .into_iter()
            .filter(|id| spec.members().any(|member| member == *id))
            .map(|id| self.cluster().name_of(id));
        let leases_pending = leases.unwrap_or_default();
        Ok(proto::DeleteVolumeReply { pending_nodes: pending_nodes.collect(), leases_pending })
    }

    async fn check_not_attached(&self, spec: &Spec, allow_absent: bool) -> Result<(), Failure> {
        let members: Vec<u32> = spec.members().collect();
        let request = Request::Status(proto::GetVolumeRequest { volume: spec.name.clone() });
        // Who learned of a detach last may not know it yet: the newest configuration decides.
        let mut newest: Option<proto::VolumeStatus> = None;
        for (id, reply) in self.ask_all(&members, &request).await {
            let node = self.cluster().name_of(id);
            match reply {
                Ok(Reply::Status(status)) => {
                    if newest.as_ref().is_none_or(|newest| newest.epoch < status.epoch) {
                        newest = Some(status);
                    }
                }
                Ok(_) => return Err(Failure::other(format!("node {node} gives an answer of another version"))),
                Err(failure) if failure.kind == Kind::NotReachable && !allow_absent => {
                    let hint = "with --allow-absent its part is deleted when it comes back";
                    return Err(Failure::not_reachable(format!("node {node}: {} ({hint})", failure.message)));
                }
                // Nothing is known there, or it may be absent: no reason to keep the rest.
                Err(_) => {}
            }
        }
        let newest = newest.unwrap_or_default();
        match newest.writers.iter().chain(&newest.readers).next() {
            None => Ok(()),
            Some(holder) => {
                let message = format!("volume {:?} is attached at node {holder}: detach it there first", spec.name);
                Err(Failure::held_by(holder, message))
            }
        }
    }

    /// Deletes on the nodes that have not confirmed yet, then the Leases. Gives those that still have not, and why the Leases
    /// are not deleted.
    ///
    /// The Leases go without waiting for a node that is away: it finds none when it comes back, and changes nothing.
    pub(super) async fn carry_on_delete(
        &self,
        spec: &Spec,
        pending: Vec<u32>,
        leases_deleted: bool,
    ) -> (Vec<u32>, Option<String>) {
        let request = proto::DeleteReplicaRequest { volume: spec.name.clone(), id: input::to_hex(&spec.id) };
        let results = self.ask_all(&pending, &Request::Delete(request)).await;
        let still: Vec<u32> = results.iter().filter(|(_, result)| result.is_err()).map(|(id, _)| *id).collect();
        let leases = if leases_deleted { Ok(()) } else { self.delete_leases(spec).await };
        let over = still.is_empty() && leases.is_ok();
        let written = match over {
            true => self.registry.finish(spec),
            false if still == pending && leases.is_ok() == leases_deleted => Ok(()),
            false => self.registry.put_unfinished(&Unfinished::Delete {
                spec: spec.clone(),
                pending: still.clone(),
                leases_deleted: leases.is_ok(),
            }),
        };
        match written {
            Ok(()) if over => tracing::info!(volume = spec.name, "volume deleted"),
            Ok(()) => tracing::debug!(volume = spec.name, pending = ?still, ?leases, "deletion waits for nodes"),
            Err(error) => tracing::error!(volume = spec.name, %error, "progress of a deletion cannot be written down"),
        }
        (still, leases.err())
    }

    /// Deletes this node's part of a volume, if it is the one of this identity. Idempotent.
    pub(crate) async fn delete_here(&self, name: &str, id: [u8; 16]) -> Result<bool, Failure> {
        input::check_name("volume", name)?;
        let _part = self.part.lock().await;
        let request = proto::DeleteReplicaRequest { volume: name.to_owned(), id: input::to_hex(&id) };
        let reply = rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().delete_replica(request)).await?;
        let known =
            self.registry.forget_volume(name, id).map_err(|error| Failure::of_host("forget the volume", &error))?;
        Ok(reply.existed || known)
    }
}
