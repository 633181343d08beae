//! The snapshot that people see.

use alloc::collections::BTreeSet;
use alloc::string::String;

use super::Replica;
use crate::ids::NodeId;
use crate::range::BLOCK_BYTES;
use crate::status::{DiskState, PeerStatus, ResyncProgress, Status};

impl Replica {
    /// A snapshot for people.
    #[must_use]
    pub fn status(&self) -> Status {
        let config = &self.view.config;
        // Of who ended before this run began no link was ever seen, and it is to be told all the same.
        let named = config.replicas.iter().chain(&config.tie_breaker).chain(config.attached.keys());
        let nodes: BTreeSet<NodeId> = named.chain(self.peers.keys()).copied().filter(|n| *n != self.node).collect();
        let peers = nodes.into_iter().map(|node| {
            let peer = self.peers.get(&node);
            let session = peer.and_then(|p| p.session);
            PeerStatus {
                node,
                // A session outlives a peer that died in silence, and one whose process ended while its connection lingers.
                reachable: self.is_heard(node)
                    && peer.is_some_and(|p| !p.suspected)
                    && session.is_some_and(|s| !self.has_ended(node, s.incarnation)),
                net: session.map(|s| s.net),
                session: session.map(|s| s.id).unwrap_or_default(),
            }
        });
        let absent = self.meta.dirty.iter().filter(|(n, _)| **n != self.node);
        Status {
            node: self.node,
            incarnation: self.incarnation,
            config: self.view.config.clone(),
            left: self.view.left.iter().copied().collect(),
            disk: self.disk_state(),
            attached: self.is_attached_here() && !self.fenced && self.reports_in,
            frozen: self.frozen,
            reconciling: self.reports_in && !self.reconciled,
            peers: peers.collect(),
            dirty_blocks: absent.map(|(n, m)| (*n, m.copy.count() + m.compare.count())).collect(),
            intent_regions: self.meta.intent.len() as u64,
            resync: self.resync_progress(),
            verify: self.verify.as_ref().map(|v| ResyncProgress {
                bytes_done: v.cursor * BLOCK_BYTES,
                bytes_total: self.view.config.size_blocks * BLOCK_BYTES,
            }),
            diverged: self.peers.iter().find(|(_, p)| p.diverged.is_some()).map(|(n, _)| *n),
            fenced_at: self.fenced_at,
            grants: self.grants_status(),
            counters: self.counters,
        }
    }

    fn disk_state(&self) -> DiskState {
        if self.meta.removed {
            return DiskState::Removed;
        }
        if let Some(reason) = &self.disk.failed {
            return DiskState::Failed(String::from(reason));
        }
        if !self.meta.has_data {
            return DiskState::Diskless;
        }
        if self.view.is_in_sync(self.node, self.incarnation) {
            DiskState::UpToDate
        } else if self.view.config.is_joining(self.node, self.incarnation) {
            DiskState::Inconsistent
        } else {
            DiskState::Outdated
        }
    }
}
