//! Whatever a replica can want.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::{Config, Generation};
use crate::ids::{
    BufId, CommandId, ConnId, Epoch, Incarnation, IoId, LeaseAsk, NodeId, PersistToken, RegisterAsk, RequestId,
};
use crate::input::{CommandError, IoError, Reply};
use crate::lease::LeaseWant;
use crate::message::{Frame, Refusal};
use crate::meta::MetaUpdate;
use crate::range::BlockRange;

/// One thing to do. Effects are carried out in order; an effect that must follow durable metadata is not emitted
/// before [`crate::Input::Persisted`] came back, so no effect needs to be held by the shell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Make these updates durable, after all earlier ones. Answered by [`crate::Input::Persisted`]. Several may be
    /// made durable with one flush.
    Persist {
        /// Names it; rising.
        token: PersistToken,
        /// The updates, in order.
        updates: Vec<MetaUpdate>,
    },
    /// Read a range of the replica into the buffer (from its start).
    DiskRead {
        /// Names it.
        io: IoId,
        /// Where.
        range: BlockRange,
        /// Destination.
        buf: BufId,
    },
    /// Write the buffer to a range of the replica. With `durable`, completes only when it is durable.
    DiskWrite {
        /// Names it.
        io: IoId,
        /// Where.
        range: BlockRange,
        /// Source.
        buf: BufId,
        /// Byte offset of the data in the buffer.
        offset: u64,
        /// Write through.
        durable: bool,
    },
    /// Make a range read as zeroes; give space back if `discard`.
    DiskZero {
        /// Names it.
        io: IoId,
        /// Where.
        range: BlockRange,
        /// Give the space back.
        discard: bool,
        /// Write through.
        durable: bool,
    },
    /// Make all completed writes durable.
    DiskFlush {
        /// Names it.
        io: IoId,
    },
    /// Read a range and digest each block. Answered by [`crate::Input::DiskDigests`].
    DiskDigest {
        /// Names it.
        io: IoId,
        /// Where.
        range: BlockRange,
    },
    /// The volume has this size now: make the replica's file fit. Not answered.
    DiskResize {
        /// Size in blocks.
        blocks: u64,
    },
    /// Send a frame. Frames of one connection arrive in the order of their sends, `urgent` ones ahead of data that has
    /// not been handed to the network yet. The connection may be gone: then nothing happens.
    Send {
        /// To whom.
        peer: NodeId,
        /// Over which connection.
        conn: ConnId,
        /// The frame.
        frame: Frame,
        /// Its payload: a buffer that the core has not released; the shell reads it before or after the release.
        payload: Option<BufId>,
        /// True for signs of life.
        urgent: bool,
    },
    /// Close a connection and discard what was not read from it. The shell connects anew on its own.
    CloseLink {
        /// The peer.
        peer: NodeId,
        /// The connection.
        conn: ConnId,
    },
    /// Answer a request of the front end.
    Complete {
        /// Which.
        request: RequestId,
        /// How.
        result: Result<(), IoError>,
    },
    /// A read that a peer served: copy the payload's bytes into the request's buffer. Precedes its `Complete`.
    CopyToRequest {
        /// The read request's buffer.
        to: BufId,
        /// The payload.
        from: BufId,
    },
    /// The core will not name this buffer again. The shell frees it once its own pending operations are done with it.
    Release {
        /// The buffer.
        buf: BufId,
    },
    /// Answer a command.
    Answer {
        /// Which.
        command: CommandId,
        /// How.
        result: Result<Reply, CommandError>,
    },
    /// Read the register. Answered by [`crate::Input::Register`], or never.
    RegisterRead {
        /// The question.
        ask: RegisterAsk,
    },
    /// Replace what the register holds, if that is still what was found under this version. Never to be tried twice.
    RegisterSwap {
        /// The question.
        ask: RegisterAsk,
        /// The version that was found.
        version: u64,
        /// What it is to hold.
        config: Box<Config>,
    },
    /// Something is wanted of Leases. Answered once by [`crate::Input::Lease`] with the same number, or never.
    Lease {
        /// Names it.
        ask: LeaseAsk,
        /// What.
        want: LeaseWant,
    },
    /// The attachment has ended without being asked to: fail the device so that nobody waits on it.
    FailDevice,
    /// Something worth a log line and a place in the status.
    Event(Event),
}

/// Names of what is worth telling. Stable: people search logs for them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A view is installed.
    Installed {
        /// Its epoch.
        epoch: Epoch,
        /// In-sync members.
        in_sync: Vec<NodeId>,
    },
    /// A member was taken out of the configuration.
    Expelled {
        /// Who.
        node: NodeId,
        /// The epoch without it.
        epoch: Epoch,
    },
    /// This node was taken out.
    Fenced {
        /// The epoch without it.
        epoch: Epoch,
    },
    /// A peer is suspected.
    Suspected {
        /// Who.
        node: NodeId,
        /// Why.
        reason: &'static str,
    },
    /// A session opened.
    SessionOpened {
        /// With whom.
        node: NodeId,
        /// Over the dedicated network?
        dedicated: bool,
    },
    /// Requests wait because neither the arbiter nor all peers can be reached.
    Frozen,
    /// They go on.
    Thawed,
    /// Resync began.
    ResyncStarted {
        /// From whom.
        source: NodeId,
        /// Bytes to copy or compare.
        bytes: u64,
    },
    /// Resync ended, the replica is in sync.
    ResyncFinished {
        /// Bytes that were copied.
        copied: u64,
    },
    /// The local replica failed.
    ReplicaFailed {
        /// Why.
        reason: String,
    },
    /// A frame was refused.
    Refused {
        /// Whose.
        node: NodeId,
        /// Why.
        reason: Refusal,
    },
    /// The register is gone, or not what it was: the configuration cannot change.
    RegisterLost {
        /// What was found.
        reason: String,
    },
    /// It is there again.
    RegisterFound,
    /// A grant Lease is gone, or not what it was: who holds its shard goes on, and a new epoch is wanted for everybody else.
    ShardLost {
        /// Which.
        shard: u8,
        /// What was found.
        reason: String,
    },
    /// Another generation of this volume was met.
    Diverged {
        /// Where.
        node: NodeId,
        /// Which.
        generation: Generation,
    },
    /// What was in flight at the change of view is settled.
    Reconciled {
        /// The epoch.
        epoch: Epoch,
        /// Blocks that were made equal.
        blocks: u64,
    },
    /// This node's replica was removed from the volume.
    Removed {
        /// The epoch in which it is the volume's no more.
        epoch: Epoch,
    },
    /// A member left as planned.
    Left {
        /// Who.
        node: NodeId,
        /// Which run.
        incarnation: Incarnation,
    },
}
