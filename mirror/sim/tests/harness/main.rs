//! The harness itself: it is deterministic, it accepts what is right, and it catches what is wrong.

mod naive;

use lockstep_core::timing::MS;
use lockstep_core::{NodeId, Setup, Time};
use lockstep_sim::failure::Kind;
use lockstep_sim::machine::Machine;
use lockstep_sim::plan::{Plan, SECOND};
use lockstep_sim::run::{Outcome, catch_panics, run_with};
use lockstep_sim::scenario::Scenario;
use lockstep_sim::trace::Trace;
use naive::{Fault, Naive};

fn plan() -> Plan {
    let mut plan = Plan::two_replicas();
    plan.active = 2 * SECOND;
    plan.moves_writer = false;
    plan.recovery_max = 5 * SECOND;
    // Overlapping requests are the machine's business, and this machine does not mind it.
    plan.load.depth = 1;
    plan.load.mix.fua = 0;
    plan
}

const CALM: Scenario = Scenario {
    name: "calm",
    about: "nothing happens",
    share: 0,
    plan: |_| plan(),
    script: |world| world.run_for(2 * SECOND),
};

const CUT: Scenario = Scenario {
    name: "cut",
    about: "the peer dies at last and never answers",
    share: 0,
    plan: |_| plan(),
    script: |world| {
        world.run_for(500 * MS);
        world.kill(NodeId(2), false);
        world.run_for(500 * MS);
    },
};

fn honest(setup: Setup, _: Time) -> Box<dyn Machine> {
    Box::new(Naive::new(setup, Fault::None))
}
fn early(setup: Setup, _: Time) -> Box<dyn Machine> {
    Box::new(Naive::new(setup, Fault::CompletesEarly))
}
fn dropping(setup: Setup, _: Time) -> Box<dyn Machine> {
    Box::new(Naive::new(setup, Fault::DropsWrites))
}
fn flushless(setup: Setup, _: Time) -> Box<dyn Machine> {
    Box::new(Naive::new(setup, Fault::FlushesNothing))
}
fn panicking(setup: Setup, _: Time) -> Box<dyn Machine> {
    Box::new(Naive::new(setup, Fault::Panics))
}

fn outcome(scenario: &Scenario, seed: u64, factory: lockstep_sim::machine::Factory) -> Outcome {
    run_with(scenario, seed, None, Trace::quiet(), factory).0
}

#[test]
fn honest_machine_passes_a_calm_run() {
    for seed in 0..10 {
        let outcome = outcome(&CALM, seed, honest);
        assert_eq!(outcome.failure, None, "seed {seed}");
        assert!(outcome.completed > 50, "{outcome:?}");
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    let (one, two) = (outcome(&CALM, 5, honest), outcome(&CALM, 5, honest));
    assert_eq!((one.hash, one.events, one.completed), (two.hash, two.events, two.completed));
    assert_ne!(one.hash, outcome(&CALM, 6, honest).hash);
}

fn rule_of(scenario: &Scenario, factory: lockstep_sim::machine::Factory) -> (Kind, String) {
    let failure = outcome(scenario, 1, factory).failure.expect("a wrong machine is caught");
    (failure.kind, failure.rule)
}

#[test]
fn completion_without_the_peers_is_caught() {
    assert_eq!(rule_of(&CALM, early), (Kind::Correctness, "I3".to_owned()));
}

#[test]
fn acknowledgement_of_a_dropped_write_is_caught() {
    assert_eq!(rule_of(&CALM, dropping), (Kind::Correctness, "I3".to_owned()));
}

#[test]
fn flush_that_flushes_nothing_is_caught() {
    assert_eq!(rule_of(&CALM, flushless), (Kind::Correctness, "I7".to_owned()));
}

#[test]
fn machine_that_never_goes_on_is_caught() {
    assert_eq!(rule_of(&CUT, honest).0, Kind::Liveness);
}

#[test]
fn panic_is_a_failure_of_the_run() {
    catch_panics();
    let failure = outcome(&CALM, 1, panicking).failure.expect("a panic is a failure");
    assert_eq!(failure.kind, Kind::Crash);
    assert!(failure.what.contains("as asked"), "{failure}");
}
