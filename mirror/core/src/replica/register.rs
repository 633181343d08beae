//! The arbiter as a register that lies elsewhere (a Kubernetes Lease): read it, swap it against what was read.
//!
//! ```text
//! wanted --read--> found --plan--> swap against the version found --> swapped
//!   ^                |                  |-- conflict: somebody was faster
//!   '---- retry -----+------------------'-- no answer: in doubt, until the next read shows what became of it
//! ```
//! The register holds decided configurations only: whatever is read there may be installed. What must not be is a register
//! that went back in time, or that is another one: it was deleted and made again, or restored from a backup. Then changes of the
//! configuration freeze, and I/O goes on for as long as it needs none.

use alloc::boxed::Box;
use alloc::string::String;

use super::Replica;
use super::arbiter::Outcome;
use super::change::{Change, Planned};
use crate::config::{Arbiter, Config};
use crate::effect::{Effect, Event};
use crate::ids::{Epoch, RegisterAsk, RequestTag, Time};
use crate::input::RegisterAnswer;

/// A question to the register that has no answer yet.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    ask: RegisterAsk,
    change: Change,
    /// What the register is to hold, once that is asked.
    swap: Option<Box<Config>>,
    /// When the answer is given up.
    pub until: Time,
}

/// What this node has to do with the register.
#[derive(Clone, Debug, Default)]
pub(super) struct Register {
    pub asked: Option<Asked>,
    asks: u64,
    /// Why changes of the configuration are frozen.
    pub lost: Option<String>,
}

impl Replica {
    /// True if a register elsewhere is this volume's arbiter.
    pub(super) fn has_register(&self) -> bool {
        self.known.settings.arbiter == Arbiter::Lease
    }

    /// Begins a change: what the register holds comes first.
    pub(super) fn ask_register(&mut self, change: Change) {
        let ask = self.next_register_ask();
        let until = self.now.after(self.timing.register_patience);
        self.register.asked = Some(Asked { ask, change, swap: None, until });
        self.out.push(Effect::RegisterRead { ask });
    }

    fn next_register_ask(&mut self) -> RegisterAsk {
        self.register.asks += 1;
        RegisterAsk(self.register.asks)
    }

    /// The register did not answer in time.
    pub(super) fn check_register(&mut self) {
        if self.register.asked.as_ref().is_some_and(|asked| asked.until <= self.now) {
            self.register_failed();
        }
    }

    fn register_failed(&mut self) {
        self.register.asked = None;
        self.proposer.reached_at = None;
        self.proposer.failures += 1;
        let spread = u64::from(self.node.0) % 8 + u64::from(self.proposer.failures % 3);
        self.proposer.retry_at = self.now.after(self.timing.arbiter_retry + self.timing.arbiter_retry / 8 * spread);
    }

    /// The register has answered.
    pub(super) fn on_register(&mut self, ask: RegisterAsk, answer: RegisterAnswer) {
        if self.register.asked.as_ref().is_none_or(|asked| asked.ask != ask) {
            // Of a question that was given up: what it did shows in the next read.
            return;
        }
        let Some(asked) = self.register.asked.take() else { return };
        if answer != RegisterAnswer::Failed {
            self.proposer.reached_at.get_or_insert(self.now);
        }
        match (answer, asked.swap) {
            (RegisterAnswer::Found { version, config }, None) => self.on_register_found(asked.change, version, *config),
            (RegisterAnswer::Swapped, Some(config)) => {
                self.proposer.failures = 0;
                self.proposer.in_doubt = false;
                self.counters.swaps += 1;
                self.learn_config(&config);
                self.announce_decided(&config);
                self.change_ended(&asked.change, Outcome::Done);
            }
            (RegisterAnswer::Conflict, _) => {
                self.proposer.failures = 0;
                self.proposer.in_doubt = false;
                let spread = self.timing.arbiter_retry / 16 * (1 + u64::from(self.node.0) % 8);
                self.proposer.retry_at = self.now.after(spread);
            }
            (RegisterAnswer::Lost { reason }, _) => self.register_lost(reason),
            _ => self.register_failed(),
        }
    }

    fn on_register_found(&mut self, change: Change, version: u64, config: Config) {
        let same = config.volume == self.known.volume && config.generation == self.known.generation;
        let back = config.epoch < self.known.epoch || config.epoch == self.known.epoch && config != self.known;
        if !same || back && !self.broken(broken!(RegisterRestored)) {
            return self
                .register_lost(String::from("the register holds an older configuration, or that of another volume"));
        }
        self.proposer.failures = 0;
        if self.register.lost.take().is_some() {
            self.out.push(Effect::Event(Event::RegisterFound));
        }
        if config.epoch > self.known.epoch {
            // Somebody's change, or one of this node's whose answer was lost. What is wanted now is looked at again.
            self.proposer.in_doubt = false;
            self.learn_config(&config);
            self.announce_decided(&config);
            return;
        }
        let planned = change.plan(&config);
        // A swap of this node without an answer may still be under way; nothing but a newer version stops it.
        let mut next = match planned {
            Planned::Next(next) => next,
            _ if self.proposer.in_doubt => Box::new(Config { epoch: Epoch(config.epoch.0 + 1), ..config }),
            planned => {
                self.proposer.in_doubt = false;
                let outcome = match planned {
                    Planned::Impossible(why) => Outcome::Impossible(why),
                    Planned::Held(node) => Outcome::Held(node),
                    _ => Outcome::Done,
                };
                return self.change_ended(&change, outcome);
            }
        };
        let tag = RequestTag { incarnation: self.incarnation, number: self.proposer.next_tag() };
        next.requests.insert(self.node, tag);
        self.proposer.in_doubt = true;
        let ask = self.next_register_ask();
        let until = self.now.after(self.timing.register_patience);
        self.out.push(Effect::RegisterSwap { ask, version, config: next.clone() });
        self.register.asked = Some(Asked { ask, change, swap: Some(next), until });
    }

    /// Changes of the configuration freeze until the register is there again, as new as what is known here.
    fn register_lost(&mut self, reason: String) {
        self.register_failed();
        if self.register.lost.as_ref() != Some(&reason) {
            self.register.lost = Some(reason.clone());
            self.out.push(Effect::Event(Event::RegisterLost { reason }));
        }
    }
}
