//! Peer policing and Lease policing keep the same promises. Against a real API server: `e2e/tests/policing.rs`.

use lockstep_sim::conformance::{CASES, Police, judge};
use lockstep_sim::run::catch_panics;
use lockstep_sim::trace::Trace;

/// Seeds per case: what differs between them is only what is left to chance in the world.
const SEEDS: u64 = 20;

fn suite(police: Police) {
    catch_panics();
    let mut failed = Vec::new();
    for case in CASES {
        for seed in 1..=SEEDS {
            let outcome = judge(&case, police, seed, None, Trace::quiet());
            if let Some(failure) = outcome.failure {
                failed.push(format!("{police:?} {} seed {seed}: {failure}", case.name));
            }
        }
    }
    // What the machines' panics are kept quiet by would keep this one quiet too.
    drop(std::panic::take_hook());
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn peers_keep_the_promises() {
    suite(Police::Peer);
}

#[test]
fn leases_keep_the_promises() {
    suite(Police::Lease);
}
