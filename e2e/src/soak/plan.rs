//! What a round does, drawn from the seed before it begins.

use crate::playground::{Fault, Playground};
use crate::random::Random;
use anyhow::Result;
use std::fmt;

/// What a node is to the volume when it is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It has the volume attached.
    Writer,
    /// It has a replica and no attachment.
    Peer,
    /// It only votes.
    TieBreaker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Writer => "writer",
            Role::Peer => "peer",
            Role::TieBreaker => "tie-breaker",
        })
    }
}

/// How work goes on when the writer was disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterWriter {
    /// Another node takes the volume over; the disturbed one is healed afterwards.
    TakeOver,
    /// The node is healed, and has the volume attached again.
    Return,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Index of the node that is disturbed.
    pub victim: usize,
    /// How.
    pub fault: Fault,
    /// Supervisor and agent too.
    pub whole_node: bool,
    /// What happens if the victim is the writer.
    pub after_writer: AfterWriter,
    /// The victim is killed once more while it comes back.
    pub kill_again: bool,
}

impl Plan {
    /// Draws a round for so many nodes.
    pub fn draw(random: &mut Random, nodes: usize) -> Self {
        let victim = usize::try_from(random.below(nodes as u64)).unwrap_or(0);
        let fault = match random.below(100) {
            0..45 => Fault::Kill,
            45..85 => Fault::Pause,
            _ => Fault::Stop,
        };
        let after_writer = if random.percent(70) { AfterWriter::TakeOver } else { AfterWriter::Return };
        Plan {
            victim,
            fault,
            whole_node: random.percent(35),
            after_writer,
            kill_again: fault != Fault::Pause && random.percent(25),
        }
    }

    /// The victim runs again.
    pub fn heal(&self, playground: &Playground, victim: &str) -> Result<()> {
        if self.fault == Fault::Pause {
            return playground.resume(victim, self.whole_node);
        }
        playground.restart(victim, self.whole_node)?;
        if self.kill_again {
            playground.disturb(victim, Fault::Kill, self.whole_node)?;
            playground.restart(victim, self.whole_node)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{AfterWriter, Fault, Plan, Random};

    #[test]
    fn every_kind_of_round_is_drawn_and_a_seed_repeats_them() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| Plan::draw(&mut random, 3)).collect::<Vec<_>>()
        };
        let plans = draw(1);
        for victim in 0..3 {
            for fault in [Fault::Kill, Fault::Pause, Fault::Stop] {
                assert!(plans.iter().any(|plan| plan.victim == victim && plan.fault == fault));
            }
        }
        assert!(plans.iter().any(|plan| plan.after_writer == AfterWriter::Return && plan.whole_node));
        assert_eq!(plans, draw(1));
        assert_ne!(plans, draw(2));
    }
}
