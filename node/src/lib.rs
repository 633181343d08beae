//! The programs of a node: `lockstep-engine` (supervisor and worker), `lockstep-node` (the agent) and `lockstep` (the
//! command line with its playground).
#![forbid(unsafe_code)]

pub mod cluster;
pub mod failure;
pub mod host;
pub mod input;
pub mod log;
pub mod pool;
pub mod process;
pub mod rpc;
pub mod spec;
pub mod state_dir;
pub mod view;
