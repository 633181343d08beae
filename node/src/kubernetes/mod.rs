//! The agent of a node in a cluster: `lockstep-node kubernetes`.
//!
//! Controller and nodes meet in three kinds of objects ([`lockstep_api`]); this is the node's side of them.
//!
//! | object | here |
//! |---|---|
//! | MirrorPool | the cluster file and the engine's list of nodes follow all of them; this node writes the status of its own |
//! | MirrorReplica | this node's are made, grown and deleted as they say, and their status follows the engine's |
//! | MirrorVolume | read when a volume is attached |
//!
//! While the API server is away everything on the node goes on: what is attached stays, can be detached and attached again. What
//! would have been reported is sent when it is back, the newest of each object only.

mod attacher;
mod cluster_agent;
mod definition;
mod ending_pods;
mod engine_seen;
mod events;
mod health;
mod identity;
mod members;
mod node_lease;
mod nodes;
mod objects;
mod options;
mod part_status;
mod part_step;
mod part_work;
mod parts;
mod pool;
mod pool_status;
mod program;
mod reports;
mod watched;

pub use options::{KubernetesOptions, MaybeDedicated};
pub use program::run;
