//! The deterministic simulator of Lockstep: many replicas, one thread, one seed.
//!
//! The production machine (`lockstep-core`) and the production codecs run here under simulated disks, clocks and
//! networks, and under every fault of `docs/testing.md`. Whatever is decided by chance comes from one seed, so that a run is
//! repeated exactly by its scenario and seed. [`history`] depends on nothing of this and serves tests of real processes too.

pub mod block;
pub mod campaign;
pub mod check;
pub mod clock;
pub mod codec;
pub mod conformance;
pub mod disk;
pub mod failure;
pub mod history;
pub mod machine;
pub mod net;
pub mod node;
pub mod plan;
pub mod record;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod store;
pub mod trace;
pub mod variants;
pub mod world;
