//! Durable before visible: updates of the metadata, and what may only happen once they are durable.

use alloc::vec::Vec;

use super::Replica;
use crate::effect::Effect;
use crate::ids::{NodeId, PersistToken};
use crate::message::Message;
use crate::meta::MetaUpdate;

/// What waits for an update to be durable.
#[derive(Clone, Debug)]
pub(super) enum After {
    /// The view that is being adopted may be installed.
    ViewDurable,
    /// A message that belongs to no session may leave.
    Tell(NodeId, Message),
    /// This node's own vote may count.
    OwnVote(Message),
    /// Writes that wait for their region's intent may start.
    Intent,
    /// The own left mark is durable.
    MarkDurable,
}

impl Replica {
    /// Applies updates to the memory of the metadata at once and asks for them to be made durable; `after` happens
    /// then. With nothing to persist it happens at once.
    pub(super) fn persist(&mut self, updates: Vec<MetaUpdate>, after: Option<After>) {
        for update in &updates {
            self.meta.apply(update);
        }
        if updates.is_empty() || self.meta_lost {
            // A replica whose metadata cannot be written has no data to protect any more and no vote.
            if let Some(after) = after {
                if updates.is_empty() && self.durable < self.persisting {
                    self.gates.push_back((self.persisting, after));
                } else {
                    self.ready.push_back(after);
                }
            }
            return;
        }
        if self.durable == self.persisting {
            self.persist_since = self.now;
        }
        self.persisting.0 += 1;
        let token = self.persisting;
        self.out.push(Effect::Persist { token, updates });
        if let Some(after) = after {
            self.gates.push_back((token, after));
        }
    }

    pub(super) fn on_persisted(&mut self, token: PersistToken) {
        self.durable = self.durable.max(token);
        self.persist_since = self.now;
        while self.gates.front().is_some_and(|(t, _)| *t <= self.durable) {
            let (_, after) = self.gates.pop_front().expect("just seen");
            self.ready.push_back(after);
        }
    }

    /// Metadata cannot be written any more: the replica has failed, and what it waited for will not be durable.
    pub(super) fn on_persist_failed(&mut self) {
        if self.meta_lost {
            return;
        }
        self.meta_lost = true;
        self.fail_disk("metadata cannot be written", false);
        let gates = core::mem::take(&mut self.gates);
        for (_, after) in gates {
            match after {
                // Without memory there is no vote, no promise and no planned leaving.
                After::Tell(..) | After::OwnVote(_) | After::MarkDurable => {}
                other => self.ready.push_back(other),
            }
        }
    }

    /// Maintenance: lets happen what has become durable.
    pub(super) fn run_ready(&mut self) {
        while let Some(after) = self.ready.pop_front() {
            match after {
                After::ViewDurable => {
                    if let Some(adopting) = &mut self.adopting {
                        adopting.durable = true;
                    }
                }
                After::Tell(node, message) => self.tell(node, message),
                After::OwnVote(message) => {
                    let node = self.node;
                    self.on_vote(node, message);
                }
                After::Intent => {
                    self.start_held_writes();
                    self.retry_pulled();
                }
                After::MarkDurable => self.on_own_mark_durable(),
            }
        }
    }
}
