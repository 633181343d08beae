//! The programs of a node: `lockstep-engine` (supervisor and worker), `lockstep-node` (the agent) and `lockstep` (the
//! command line with its playground).
//!
//! Where to look: [`agent`] decides who gets what of a volume and speaks with the other nodes; [`engine`] is the shell round
//! the mirror; [`cli`] is what people type; [`playground`] starts and ends the programs of several nodes on one machine.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod cluster;
pub mod csi;
pub mod engine;
pub mod failure;
pub mod first_config;
pub mod holder;
pub mod host;
pub mod input;
pub mod kubernetes;
pub mod log;
pub mod playground;
pub mod pool;
pub mod process;
pub mod rpc;
pub mod spec;
pub mod state_dir;
pub mod view;
