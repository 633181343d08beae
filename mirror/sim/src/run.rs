//! One run: a scenario, a seed, perhaps a rule that is left out; and many of them.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lockstep_core::broken::Broken;
use serde::Serialize;

use crate::failure::Failure;
use crate::machine::{Factory, production};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::scenario::{Scenario, finish};
use crate::trace::Trace;
use crate::world::World;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The seed.
    pub seed: u64,
    /// The wrong that was found.
    pub failure: Option<Failure>,
    /// Two runs of one seed have the same.
    pub hash: u64,
    /// Events that happened.
    pub events: u64,
    /// Requests that completed without error.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Nanoseconds of the world's time.
    pub virtual_nanos: u64,
}

/// Keeps panics of the machines quiet: they are failures of a run, not of the program. Once per process.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = format!("{panic}").replace('\n', " ");
        PANIC.with(|slot| *slot.borrow_mut() = Some(message));
    }));
}

/// Runs the production machine.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64, broken: Option<Broken>, trace: Trace) -> Outcome {
    run_with(scenario, seed, broken, trace, production).0
}

/// Runs any machine, and hands out the world as it was at the end.
#[must_use]
pub fn run_with(
    scenario: &Scenario,
    seed: u64,
    broken: Option<Broken>,
    trace: Trace,
    factory: Factory,
) -> (Outcome, World) {
    let mut rng = Rng::new(seed);
    let mut plan = (scenario.plan)(&mut rng);
    plan.broken = broken;
    let world = World::new(plan, rng.next(), factory, trace);
    play(scenario.name, seed, world, scenario.script)
}

/// Runs the production machine by a plan of its own.
pub fn run_plan(name: &'static str, plan: Plan, seed: u64, script: impl FnOnce(&mut World), trace: Trace) -> Outcome {
    play(name, seed, World::new(plan, seed, production, trace), script).0
}

fn play(name: &'static str, seed: u64, mut world: World, script: impl FnOnce(&mut World)) -> (Outcome, World) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        script(&mut world);
        finish(&mut world);
    }));
    if result.is_err() {
        let message = PANIC.with(|slot| slot.borrow_mut().take()).unwrap_or_default();
        let now = world.now;
        world.failure = None;
        world.fail(Failure::crash(now, message));
    }
    let outcome = Outcome {
        scenario: name,
        seed,
        failure: world.failure.clone(),
        hash: world.trace.hash(),
        events: world.events(),
        completed: world.record.completed,
        failed: world.record.failed,
        virtual_nanos: world.now,
    };
    (outcome, world)
}
