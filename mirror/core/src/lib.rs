//! The replication state machine of Lockstep: no I/O, no clock, no randomness.
