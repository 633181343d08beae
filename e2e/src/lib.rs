//! Tests, demo and benchmarks that act as a user of Lockstep.
