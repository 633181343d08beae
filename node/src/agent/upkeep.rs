//! What the agent does without being asked: opens the pool, tells the engine of it, carries on what is not finished.

use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::node::v1 as proto;

use proto::peer_reply::Reply;
use proto::peer_request::Request;

use super::registry::Unfinished;
use super::{Agent, Keeper, pool_marker};
use crate::cluster::{Dedicated, Node};
use crate::failure::{Kind, chain};
use crate::{pool, rpc};

/// How often it looks whether there is something to do. A look costs one call to the engine on the same machine.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often nodes are asked again that did not answer.
const RETRY_EVERY: Duration = Duration::from_secs(2);

impl Agent {
    /// Opens the pool, for as long as it takes: a disk may appear later than its agent.
    pub(super) fn open_pool(&self) {
        let cluster = self.cluster();
        let Some(place) = cluster.this.pool.as_ref() else {
            *self.pool.lock().expect("no holder panics") = Ok(None);
            return;
        };
        let opened = pool::ensure_open(place, &self.state.pool_mount(), &pool_marker(&cluster, &self.me));
        let opened = opened.map(Some).map_err(|error| chain(&error));
        let mut known = self.pool.lock().expect("no holder panics");
        if *known != opened {
            match &opened {
                Ok(_) => tracing::info!("pool open"),
                Err(reason) => tracing::error!(reason, "pool not open"),
            }
            *known = opened;
        }
    }

    async fn tell_engine_of_pool(&self) {
        let Ok(Some(open)) = self.pool() else { return };
        let mut engine = self.engine();
        let call = engine.get_identity(proto::GetIdentityRequest {});
        match rpc::answer(&self.engine_name(), rpc::ANSWER_WITHIN, call).await {
            Ok(identity) if identity.ready && identity.pool.is_empty() => {}
            _ => return,
        }
        let request = proto::OpenPoolRequest { path: open.path.display().to_string() };
        let answer = rpc::answer(&self.engine_name(), rpc::ANSWER_WITHIN, engine.open_pool(request)).await;
        let refused = match answer {
            Ok(_) => {
                tracing::info!("engine has the pool");
                String::new()
            }
            // It starts or stops.
            Err(failure) if failure.kind == Kind::NotReachable => return,
            Err(failure) => format!("the engine does not take it: {}", failure.message),
        };
        let mut known = self.pool_refused.lock().expect("no holder panics");
        if *known != refused {
            if !refused.is_empty() {
                tracing::error!(reason = refused, "pool not open");
            }
            *known = refused;
        }
    }

    /// Asks the nodes whose address on the dedicated network the cluster file leaves open, and tells the engine.
    async fn learn_addresses(&self) {
        let is_open = |node: &&Node| matches!(node.dedicated, Some(Dedicated::Network { .. })) && node.id != self.me.id;
        let ids: Vec<u32> = self.cluster().nodes.iter().filter(is_open).map(|node| node.id).collect();
        let replies = self.ask_all(&ids, &Request::Describe(proto::GetNodeRequest {})).await;
        let addresses: Vec<proto::DedicatedAddress> = replies
            .into_iter()
            .filter_map(|(node_id, reply)| match reply {
                Ok(Reply::Describe(node)) if !node.dedicated_address.is_empty() => {
                    Some(proto::DedicatedAddress { node_id, address: node.dedicated_address })
                }
                _ => None,
            })
            .collect();
        if addresses.is_empty() {
            return;
        }
        let request = proto::LearnAddressesRequest { addresses };
        let call = rpc::answer(&self.engine_name(), rpc::ANSWER_WITHIN, self.engine().learn_addresses(request)).await;
        if let Err(failure) = call {
            tracing::warn!(%failure, "engine does not learn the dedicated addresses");
        }
    }

    async fn carry_on(&self) {
        for work in self.registry.unfinished() {
            // Whoever creates or deletes now holds this and will finish it.
            let Ok(_changing) = self.changing.try_lock() else { return };
            match work {
                Unfinished::Create { spec } => {
                    self.undo_create(&spec).await;
                }
                Unfinished::Delete { spec, pending, leases_deleted } => {
                    self.carry_on_delete(&spec, pending, leases_deleted).await;
                }
            }
        }
    }
}

/// Runs until the program ends.
pub(crate) async fn keep_up(agent: Arc<Agent>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut retried: Option<tokio::time::Instant> = None;
    let mut named = None;
    let mut admitted = None;
    let mut unheard = agent.who_remembers();
    loop {
        look.tick().await;
        if retried.is_none_or(|last| last.elapsed() >= RETRY_EVERY) {
            retried = Some(tokio::time::Instant::now());
            if agent.pool().is_err() {
                let agent = Arc::clone(&agent);
                // Formatting and mounting wait for a disk.
                if let Err(error) = tokio::task::spawn_blocking(move || agent.open_pool()).await {
                    tracing::error!(%error, "opening the pool panicked");
                }
            }
            // A controller does what is left of these, and tells more of it.
            let by_agents = agent.keeper == Keeper::Agents;
            if by_agents {
                agent.carry_on().await;
                agent.learn_addresses().await;
            }
            // An engine that was killed took its devices along: their names go when its next run answers.
            let run = agent.describe().await.incarnation;
            if run != 0 && named != Some(run) && agent.ensure_device_names().await.is_ok() {
                named = Some(run);
            }
            // What the other nodes remember of this one, and its engine does not.
            if by_agents && agent.recall_volumes(&mut unheard).await {
                admitted = None;
            }
            if by_agents && run != 0 && admitted != Some(run) && agent.admit_forgotten().await {
                admitted = Some(run);
            }
        }
        agent.tell_engine_of_pool().await;
    }
}
