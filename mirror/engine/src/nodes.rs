//! The nodes of the cluster, which come, move and go while the engine runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_core::{Net, NodeId};

use crate::engine::{Engine, VolumeState};
use crate::event_loop::LoopCommand;
use crate::shared::NodeAddress;

/// How long the loops may take to say which nodes their volumes use: they answer between two turns.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Why nodes were not learned. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LearnNodes {
    /// The engine listens at its own address from its start on.
    #[error("this node's own address is learned at the engine's start only")]
    OwnAddress,
    /// A volume has the node that is to be forgotten among its members.
    #[error("volume {volume:?} uses node {node}")]
    InUse {
        /// The node.
        node: NodeId,
        /// The first volume that uses it.
        volume: String,
    },
    /// Which nodes a volume uses is not known yet.
    #[error("volume {0:?} does not say which nodes it uses")]
    NotKnown(String),
}

impl Engine {
    /// Adds nodes, gives known ones a new name or new addresses, and forgets others, all or nothing. Connections that go to
    /// where a node was are ended, and volumes dial it where it is now. A node without an address on the dedicated network
    /// keeps the one that [`Engine::learn_dedicated`] told, unless its ordinary address changes.
    ///
    /// # Errors
    /// See [`LearnNodes`].
    pub fn learn_nodes(&self, nodes: &[NodeAddress], forgotten: &BTreeSet<NodeId>) -> Result<(), LearnNodes> {
        let own = self.shared.identity.node;
        if forgotten.contains(&own) {
            return Err(LearnNodes::OwnAddress);
        }
        self.check_unused(forgotten)?;
        let mut routes = BTreeSet::new();
        {
            let mut known = self.shared.nodes_mut();
            let moves = |node: &NodeAddress, net| known.get(&node.id).is_some_and(|now| now.on(net) != node.on(net));
            if nodes.iter().any(|node| node.id == own && (moves(node, Net::Ordinary) || moves(node, Net::Dedicated))) {
                return Err(LearnNodes::OwnAddress);
            }
            let mut learned = self.shared.learned();
            for node in nodes {
                let Some(now) = known.insert(node.id, node.clone()) else { continue };
                if now.ordinary != node.ordinary {
                    learned.remove(&node.id);
                }
                let changed = [Net::Ordinary, Net::Dedicated].into_iter().filter(|net| now.on(*net) != node.on(*net));
                routes.extend(changed.map(|net| (node.id, net)));
            }
            for node in forgotten {
                known.remove(node);
                learned.remove(node);
                routes.extend([Net::Ordinary, Net::Dedicated].map(|net| (*node, net)));
            }
        }
        tracing::info!(nodes = nodes.len(), forgotten = forgotten.len(), moved = routes.len(), "nodes_learned");
        let routes = Arc::new(routes);
        for each in &self.shared.loops {
            each.send(LoopCommand::RoutesChanged { routes: Arc::clone(&routes) });
        }
        Ok(())
    }

    /// No volume has any of these nodes among its members or voters.
    fn check_unused(&self, nodes: &BTreeSet<NodeId>) -> Result<(), LearnNodes> {
        if nodes.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + ANSWER_WITHIN;
        for entry in self.list() {
            let not_known = || LearnNodes::NotKnown(entry.name.clone());
            match entry.state {
                // It talks to nobody until an operator has repaired and restarted.
                VolumeState::Failed(_) => continue,
                VolumeState::Opening => return Err(not_known()),
                VolumeState::Running => {}
            }
            // Deleted meanwhile: it uses nobody.
            let Ok(status) = self.status(&entry.name) else { continue };
            let answered = status.wait_for(deadline.saturating_duration_since(Instant::now()));
            let core = answered.ok().flatten().ok_or_else(not_known)?.core;
            let config = &core.config;
            let members = config.replicas.iter().chain(&config.tie_breaker).chain(config.attached.keys());
            let used = members.chain(config.voters.keys()).copied().find(|node| nodes.contains(node));
            if let Some(node) = used {
                return Err(LearnNodes::InUse { node, volume: entry.name.clone() });
            }
        }
        Ok(())
    }
}
