//! A register elsewhere: what a Kubernetes Lease is to the machines. Requests and answers take time, and can be lost.

use std::collections::BTreeSet;

use lockstep_core::timing::MS;
use lockstep_core::{Config, Input, NodeId, RegisterAnswer, RegisterAsk};

use super::{Happening, World};

/// The register and the way to it.
#[derive(Clone, Debug)]
pub struct Register {
    /// Rises with every swap.
    pub version: u64,
    /// What it holds.
    pub config: Config,
    /// It can be reached, and answers.
    pub up: bool,
    /// Nodes that cannot reach it.
    pub cut: BTreeSet<NodeId>,
    /// How much later watches see a change.
    pub lag: u64,
    /// Longest time on the way, each way.
    pub slowest: u64,
}

/// What a machine asked, on its way.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub node: NodeId,
    pub run: u64,
    pub ask: RegisterAsk,
    /// The version that was found, and what the register is to hold; [`None`] for a read.
    pub swap: Option<(u64, Box<Config>)>,
}

impl Register {
    /// How long a request takes at most, each way, most of the time.
    pub const USUAL: u64 = 4 * MS;

    /// The register of a new volume.
    #[must_use]
    pub fn new(config: Config) -> Register {
        Register { version: 1, config, up: true, cut: BTreeSet::new(), lag: 0, slowest: Register::USUAL }
    }

    /// True if a node gets an answer.
    #[must_use]
    pub fn reaches(&self, node: NodeId) -> bool {
        self.up && !self.cut.contains(&node)
    }
}

impl World {
    pub(super) fn on_register_asked(&mut self, id: NodeId, ask: RegisterAsk, swap: Option<(u64, Box<Config>)>) {
        let run = self.nodes.get(&id).map_or(0, |node| node.run);
        let after = self.register_delay();
        self.schedule(after, Happening::RegisterAsked(Asking { node: id, run, ask, swap }));
    }

    pub(super) fn register_delay(&mut self) -> u64 {
        // Most are quick; some overtake others by far.
        let slowest = if self.rng.one_in(20) { self.register.slowest * 100 } else { self.register.slowest };
        self.rng.skewed(MS / 10, slowest)
    }

    pub(super) fn on_register_arrives(&mut self, asking: Asking) {
        let Asking { node, run, ask, swap } = asking;
        if !self.register.reaches(node) {
            // Refused at once, or never answered.
            if self.rng.one_in(2) {
                self.schedule(MS, Happening::RegisterAnswers { node, run, ask, answer: RegisterAnswer::Failed });
            }
            return;
        }
        let answer = match (&mut self.remote, swap) {
            (Some(remote), None) => remote.read_register(),
            (Some(remote), Some((version, config))) => remote.swap_register(version, &config),
            (None, swap) => self.answer_register(swap),
        };
        let after = self.register_delay();
        self.schedule(after, Happening::RegisterAnswers { node, run, ask, answer });
    }

    fn answer_register(&mut self, swap: Option<(u64, Box<Config>)>) -> RegisterAnswer {
        match swap {
            None => {
                RegisterAnswer::Found { version: self.register.version, config: Box::new(self.register.config.clone()) }
            }
            Some((version, _)) if version != self.register.version => RegisterAnswer::Conflict,
            Some((_, config)) => {
                self.register.version += 1;
                self.register.config = *config;
                RegisterAnswer::Swapped
            }
        }
    }

    pub(super) fn on_register_answers(&mut self, id: NodeId, run: u64, ask: RegisterAsk, answer: RegisterAnswer) {
        let lost = !self.register.reaches(id) || self.nodes.get(&id).is_none_or(|node| node.run != run);
        if !lost {
            self.deliver(id, Input::Register { ask, answer });
        }
    }
}
