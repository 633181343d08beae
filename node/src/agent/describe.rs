//! What this node says of itself.

use std::net::IpAddr;

use lockstep_proto::node::v1 as proto;

use super::Agent;
use super::plan::{Candidate, Offer, Unfit};
use crate::cluster::Dedicated;
use crate::failure::Failure;
use crate::{host, pool, rpc};
use proto::peer_reply::Reply;
use proto::peer_request::Request;

impl Agent {
    pub(super) async fn describe(&self) -> proto::NodeDescription {
        let identity = rpc::answer(
            &self.engine_name(),
            rpc::ANSWER_WITHIN,
            self.engine().get_identity(proto::GetIdentityRequest {}),
        )
        .await;
        let identity =
            identity.unwrap_or_else(|failure| proto::EngineIdentity { reason: failure.message, ..Default::default() });
        let mut pool = self.describe_pool();
        if let Some(pool) = pool.as_mut().filter(|pool| pool.ready && identity.pool.is_empty()) {
            // The engine has not taken it yet: nothing can be made there.
            pool.ready = false;
            pool.reason.clone_from(&self.pool_refused.lock().expect("no holder panics"));
        }
        proto::NodeDescription {
            node: self.me.name.clone(),
            node_id: self.me.id,
            cluster: self.cluster().psk.fingerprint(),
            pool,
            engine_ready: identity.ready,
            engine_reason: identity.reason,
            incarnation: identity.incarnation,
            nodes: self.cluster().nodes.iter().map(describe_address).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dedicated_address: self.own_dedicated().map(|address| address.to_string()).unwrap_or_default(),
            metrics_port: self.cluster().this.metrics_port.map_or(0, u32::from),
        }
    }

    /// This node's own address on the dedicated network, if it is on one.
    pub(crate) fn own_dedicated(&self) -> Option<IpAddr> {
        match self.me.dedicated? {
            Dedicated::Address(address) => Some(address),
            network @ Dedicated::Network { .. } => host::addresses::own_in(network),
        }
    }

    /// This node's pool; none: it shall have none.
    pub(crate) fn describe_pool(&self) -> Option<proto::Pool> {
        self.cluster().this.pool.as_ref()?;
        let open = match self.pool() {
            Ok(open) => open?,
            Err(reason) => return Some(proto::Pool { reason, ..Default::default() }),
        };
        let mut pool = proto::Pool {
            path: open.path.display().to_string(),
            device: open.device.as_ref().map_or_else(String::new, |device| device.display().to_string()),
            ..Default::default()
        };
        let seen = pool::observe_space(&open.path).and_then(|it| Ok((it, pool::observe_file_system(&open.path)?)));
        match seen {
            Ok((space, file_system)) => {
                pool.file_system = file_system;
                pool.ready = true;
                pool.size_bytes = space.size_bytes;
                pool.free_bytes = space.free_bytes;
            }
            Err(error) => pool.reason = format!("cannot look at its file system: {error}"),
        }
        Some(pool)
    }

    /// All nodes as they describe themselves, for a decision about a new volume.
    pub(super) async fn observe_candidates(&self) -> Vec<Candidate> {
        let ids: Vec<u32> = self.cluster().nodes.iter().map(|node| node.id).collect();
        let replies = self.ask_all(&ids, &Request::Describe(proto::GetNodeRequest {})).await;
        replies
            .into_iter()
            .map(|(id, reply)| Candidate { id, name: self.cluster().name_of(id), offer: parse_offer(reply) })
            .collect()
    }
}

fn parse_offer(reply: Result<Reply, Failure>) -> Result<Offer, Unfit> {
    let description = match reply {
        Ok(Reply::Describe(description)) => description,
        Ok(_) => return Err(Unfit::NotReady("it gives an answer of another version".to_owned())),
        Err(failure) => return Err(Unfit::Unreachable(failure.message)),
    };
    if !description.engine_ready {
        return Err(Unfit::NotReady(description.engine_reason));
    }
    let pool_bytes = match description.pool {
        None => Err("it has none".to_owned()),
        Some(pool) if !pool.ready && pool.reason.is_empty() => Err("its engine has not taken it yet".to_owned()),
        Some(pool) if !pool.ready => Err(pool.reason),
        Some(pool) => Ok(pool.size_bytes),
    };
    Ok(Offer { incarnation: description.incarnation, pool_bytes })
}

/// A node as it is told.
pub(crate) fn describe_address(node: &crate::cluster::Node) -> proto::NodeAddress {
    proto::NodeAddress {
        node_id: node.id,
        node: node.name.clone(),
        address: node.address.to_string(),
        dedicated: match node.dedicated {
            None => String::new(),
            Some(Dedicated::Address(address)) => address.to_string(),
            Some(Dedicated::Network { base, prefix }) => format!("{base}/{prefix}"),
        },
        port: u32::from(node.port),
    }
}
