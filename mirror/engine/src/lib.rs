//! The I/O shell of Lockstep: event loops on io_uring, replica storage, peer links, front ends.
//!
//! One event loop per core owns one io_uring that carries the disk operations, sockets and front ends of its volumes. A
//! turn of the loop drains all completions, steps the [`lockstep_core::Replica`] machines, and submits everything that
//! they want with one system call.

pub mod front;

mod buffers;
mod clock;
mod disk;
mod engine;
mod event_loop;
mod exit_report;
mod front_ends;
mod greeting;
mod lease_port;
mod link;
mod meta_store;
mod metrics;
mod nodes;
mod parts;
mod pending;
mod ring;
mod shared;
mod slots;
mod socket;
mod storage;
mod token;
mod volume;

pub use engine::{
    CreateVolume, DeleteVolume, Engine, EngineConfig, FindVolume, StartEngine, VolumeEntry, VolumeState,
    last_incarnation,
};
pub use exit_report::{ExitReport, SendReport, report_exit};
pub use front_ends::{FrontEndAddress, FrontEndKind, FuseKind, GrowFrontEnd, LoopSession, StartFrontEnd, StopFrontEnd};
pub use lease_port::{LeasePort, LeaseRequests};
pub use lockstep_core as core;
pub use nodes::LearnNodes;
pub use parts::{GivePart, decode_configuration, encode_configuration};
pub use pending::Pending;
pub use shared::{Identity, NodeAddress};
pub use storage::{CreateReplica, OpenReplica};
pub use volume::{EventRecord, FrontStatus, LinkStatus, RequestResult, VolumeStatus};
