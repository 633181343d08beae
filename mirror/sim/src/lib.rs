//! The deterministic simulator of Lockstep: many replicas, one thread, one seed.

pub mod history;
