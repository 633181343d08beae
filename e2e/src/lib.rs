//! Tests, demo and benchmarks that act as a user of Lockstep.
//!
//! Everything here drives the programs from outside: the command line with `--output json`, the block device, the NBD
//! socket, signals. What it needs to judge them (stamps in every block, histories, an own NBD client, a faulty
//! file system) shares no code with them.

pub mod bank;
pub mod bench;
pub mod demo;
pub mod faultfs;
pub mod load;
pub mod loops;
pub mod networks;
pub mod playground;
pub mod random;
pub mod replicas;
pub mod soak;
pub mod status;
pub mod turn;

pub use lockstep_processes::{cleanup, command, wait};
