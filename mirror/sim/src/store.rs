//! A node's durable metadata: what is durable, and the updates that are still on their way.

use std::collections::VecDeque;

use lockstep_core::{Meta, MetaUpdate, PersistToken};

use crate::rng::Rng;

/// Metadata of one replica (or of a voter without data).
#[derive(Clone, Debug)]
pub struct Store {
    durable: Meta,
    pending: VecDeque<(PersistToken, Vec<MetaUpdate>)>,
    /// When the last of the pending updates will be durable: they become so in order.
    pub busy_until: u64,
    /// Updates fail from now on.
    pub failing: bool,
}

impl Store {
    /// A store that holds this.
    #[must_use]
    pub fn new(meta: Meta) -> Store {
        Store { durable: meta, pending: VecDeque::new(), busy_until: 0, failing: false }
    }

    /// What a start would read now, if the power failed now at the latest.
    #[must_use]
    pub fn durable(&self) -> &Meta {
        &self.durable
    }

    /// Takes updates in.
    pub fn submit(&mut self, token: PersistToken, updates: Vec<MetaUpdate>) {
        self.pending.push_back((token, updates));
    }

    /// Everything up to `token` is durable now.
    pub fn settle(&mut self, token: PersistToken) {
        while self.pending.front().is_some_and(|(first, _)| *first <= token) {
            self.settle_first();
        }
    }

    fn settle_first(&mut self) {
        for update in self.pending.pop_front().map(|(_, updates)| updates).unwrap_or_default() {
            self.durable.apply(&update);
        }
    }

    /// The process or the machine died: any first part of what was on its way is durable, the rest never was.
    pub fn crash(&mut self, rng: &mut Rng) {
        for _ in 0..rng.below(self.pending.len() as u64 + 1) {
            self.settle_first();
        }
        self.pending.clear();
        self.busy_until = 0;
    }

    /// Changes the memory behind the machine's back: an operator's doing, while nothing runs.
    pub fn replace(&mut self, meta: Meta) {
        *self = Store::new(meta);
    }
}
