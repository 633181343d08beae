//! The controller of Lockstep: what becomes of MirrorVolumes, MirrorPools and MirrorReplicas.
//!
//! ```text
//! API server --watches--> cluster (stores in memory) --> plan (pure) --> reconcile (one leader writes) --> API server
//!                                   |
//!                                   '--> csi (every replica of the controller answers, by writing and watching objects)
//! ```
//!
//! The data plane is the fence: nothing here can make two writers of a single-writer volume. What is decided here is where volumes are
//! placed, and when pods are moved.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod config;
pub mod csi;
pub mod health;
pub mod leadership;
pub mod metrics;
pub mod plan;
pub mod program;
pub mod reconcile;
mod uninstall;
