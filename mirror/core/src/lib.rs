//! The replication state machine of Lockstep.
//!
//! One [`Replica`] per volume and node, owned by one event loop. It is *sans-io*: whatever can happen comes in as an
//! [`Input`], whatever it wants done goes out as an [`Effect`], and time, identity and incarnations are arguments.
//! The same code runs in the engine and in the simulator.
//!
//! Where to look: [`config`] is the register that the arbiter holds, [`meta`] what a replica keeps durably,
//! [`message`] what members say to each other, `replica` the machine itself.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bitmap;
#[cfg(feature = "broken")]
pub mod broken;
pub mod config;
pub mod effect;
pub mod ids;
pub mod input;
pub mod lease;
pub mod message;
pub mod meta;
pub mod range;
pub mod replica;
pub mod status;
pub mod timing;

pub use bitmap::BlockSet;
pub use config::{
    Access, Ack, Arbiter, AttachMode, Attachment, Config, Generation, Joining, OnQuorumLoss, Role, Setting, Settings,
};
pub use effect::{Effect, Event};
pub use ids::{
    AskId, BlockIndex, BootId, BufId, CommandId, ConnId, Digest, Epoch, FlushId, GrantNumber, Incarnation, IoId,
    LeaseAsk, NodeId, PersistToken, ReadId, RecallId, RegionIndex, RegisterAsk, RequestId, RequestTag, Round,
    SessionId, Time, VolumeId, VoterId, WriteId,
};
pub use input::{Command, CommandError, DiskError, Input, IoError, Op, RegisterAnswer, Reply, Request};
pub use lease::{GrantLease, LeaseTold, LeaseWant, Policing, Wish};
pub use message::{Ballot, Class, Frame, Message, Net, Refusal, Stamp, WriteKind};
pub use meta::{DirtyMap, Meta, MetaUpdate, VoterState};
pub use range::BlockRange;
pub use replica::{Replica, Setup};
pub use status::{Counters, DiskState, GrantsStatus, ShardStatus, Status, WaitingStatus};
