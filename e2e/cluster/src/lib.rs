//! What acts as a user of a Kubernetes cluster on which Lockstep is installed: claims, pods, nodes that die.
//!
//! ```text
//! cluster     kubectl and what one waits for        nodes      containers of kind's nodes: killed, paused, cut off
//! plugin      a node's CSI plugin, in /proc         collector  what writers in pods were told is safe
//! workload    claims and pods by name               ledger     records that a pod writes
//! scenarios   one function each, a sentence each    timeline   where the seconds of a fail-over went
//! levels      what is measured
//! ```
//!
//! Everything goes through `kubectl`, as a user's hands would. Waits are for a state, with a bound that says what was waited for.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod collector;
pub mod ledger;
pub mod levels;
pub mod nodes;
pub mod plugin;
pub mod scenarios;
pub mod timeline;
pub mod wait;
pub mod workload;
