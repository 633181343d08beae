//! Many runs: seeds over all cores, and the broken variants until each is caught.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_core::broken::Broken;
use serde::Serialize;

use crate::run::{Outcome, run};
use crate::scenario::{self, Scenario};
use crate::trace::Trace;

/// What is run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub first: u64,
    /// How many seeds.
    pub seeds: u64,
    /// Only this scenario; else each seed's own.
    pub scenario: Option<String>,
    /// The rule that is left out.
    pub broken: Option<Broken>,
    /// Threads.
    pub jobs: usize,
    /// Stop after so many failures.
    pub failures_max: usize,
}

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Runs that were made.
    pub runs: u64,
    /// Events that happened in them.
    pub events: u64,
    /// Requests that completed in them.
    pub completed: u64,
    /// Nanoseconds of virtual time.
    pub virtual_nanos: u64,
    /// The failures, by seed.
    pub failures: Vec<Outcome>,
}

impl Campaign {
    fn scenario_of(&self, seed: u64) -> Option<Scenario> {
        match &self.scenario {
            Some(name) => scenario::find(name),
            None => Some(scenario::of_seed(seed)),
        }
    }

    /// Runs every seed; `progress` is called after each with the number of runs and failures so far.
    pub fn run(&self, progress: impl Fn(u64, usize) + Sync) -> Tally {
        let next = AtomicU64::new(self.first);
        let stop = AtomicBool::new(false);
        let tally = Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed - self.first >= self.seeds {
                            return;
                        }
                        let Some(scenario) = self.scenario_of(seed) else { return };
                        let outcome = run(&scenario, seed, self.broken, Trace::quiet());
                        let mut tally = tally.lock().expect("no thread panics while it holds this");
                        tally.runs += 1;
                        tally.events += outcome.events;
                        tally.completed += outcome.completed;
                        tally.virtual_nanos += outcome.virtual_nanos;
                        if outcome.failure.is_some() {
                            tally.failures.push(outcome);
                            if tally.failures.len() >= self.failures_max {
                                stop.store(true, Ordering::Relaxed);
                            }
                        }
                        progress(tally.runs, tally.failures.len());
                    }
                });
            }
        });
        let mut tally = tally.into_inner().expect("no thread panics while it holds this");
        tally.failures.sort_by_key(|outcome| outcome.seed);
        tally
    }
}
