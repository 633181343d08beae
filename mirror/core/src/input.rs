//! Whatever can happen to a replica.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::{AttachMode, Config, Role, Setting};
use crate::ids::{
    BufId, CommandId, ConnId, Digest, Epoch, Incarnation, IoId, LeaseAsk, NodeId, PersistToken, RegisterAsk, RequestId,
};
use crate::lease::LeaseTold;
use crate::message::{Class, Frame, Net};
use crate::range::BlockRange;

/// What the front end asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    /// Fill the buffer.
    Read,
    /// Write the buffer; with `fua`, complete only when durable on all.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make everything completed durable on all.
    Flush,
    /// Write zeroes.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
    },
    /// Discard.
    Discard,
}

/// A request of the front end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Request {
    /// Named by the shell.
    pub id: RequestId,
    /// What.
    pub op: Op,
    /// Where; empty for a flush.
    pub range: BlockRange,
    /// The data of a write, the destination of a read; unused otherwise. The shell owns it until completion, and for
    /// writes until [`crate::Effect::Release`].
    pub buf: BufId,
}

/// How a request failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IoError {
    /// Device error.
    Io,
    /// No space.
    NoSpace,
    /// The range is not in the volume.
    OutOfRange,
    /// The volume is attached for reading only, or not attached.
    ReadOnly,
}

/// How a disk operation failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DiskError {
    /// The device failed the request.
    Io,
    /// The pool is full.
    NoSpace,
}

/// What an operator asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Become an attached member.
    Attach {
        /// Reads only, or writes too.
        mode: AttachMode,
        /// Wait until another writer is fenced, instead of being refused.
        take_over: bool,
        /// The front end survives a restart of the engine. Without meaning for a multi-writer volume.
        recoverable: bool,
        /// Class of its requests for grants, if not the volume's.
        class: Option<Class>,
    },
    /// Take up again the attachment that an earlier run of this node made in that epoch ([`Attachment::since`]), and whose front end
    /// outlived it. Answered once what was in flight is settled; with an error as soon as that attachment is known to be over:
    /// another writer may have been there since, and whoever uses the front end must not take its word for the volume's.
    ///
    /// [`Attachment::since`]: crate::Attachment::since
    Resume {
        /// The epoch that made the attachment.
        since: Epoch,
    },
    /// Nobody waits for the attach under way any more: it is answered with an error, and what a swap that cannot be called back still
    /// makes of it ends by itself.
    GiveUpAttach,
    /// Stop being attached. The shell has stopped its front end before.
    Detach,
    /// Leave as planned (clean shutdown). Answered when the engine may stop.
    Leave,
    /// Grow to this many blocks.
    Resize {
        /// New size.
        blocks: u64,
    },
    /// Make a node a replica's or the tie-breaker, of a volume that exists: of an in-sync member. The node runs its part of the volume
    /// already ([`crate::Meta::empty_replica`], [`crate::Meta::forgotten`]). A new tie-breaker takes the old one's place, a
    /// tie-breaker may become a replica and the other way round.
    AddMember {
        /// Which node.
        node: NodeId,
        /// What it is for.
        role: Role,
        /// A replica that goes in the same swap.
        instead_of: Option<NodeId>,
    },
    /// Take a node's replica, or its part as the tie-breaker, from it: of an in-sync member on another node. An attachment stays.
    RemoveMember {
        /// Which node.
        node: NodeId,
    },
    /// Change a setting of the volume: of a member. Answered once all members go by it, so that it holds for whatever begins afterwards.
    Set(Setting),
    /// Take the grants of the whole volume from whoever holds them: of a multi-writer volume that is attached here.
    TakeGrants,
    /// Compare all replicas by digest.
    Verify {
        /// Overwrite what differs with this member's copy.
        repair_from: Option<NodeId>,
    },
    /// Go on alone with this replica's data, unproven: a new generation.
    Force,
    /// Give up this replica's own generation and take everything from those of another.
    Rejoin,
    /// Limit resync to so many bytes a second; 0 is no limit.
    SetResyncRate {
        /// Bytes a second.
        bytes_per_second: u64,
    },
}

/// What a command that succeeded answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// Result of a verify.
    Verified {
        /// Blocks compared on each replica.
        blocks: u64,
        /// Blocks that differed.
        different: u64,
        /// Blocks repaired.
        repaired: u64,
    },
}

/// Why a command failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// Another node is the writer.
    AttachedElsewhere {
        /// Which.
        holder: NodeId,
    },
    /// It is attached here already, or not attached.
    AttachState {
        /// What is so.
        reason: String,
    },
    /// No up-to-date replica can be reached.
    NoUpToDateReplica,
    /// The arbiter cannot be reached.
    NoQuorum,
    /// A node does not answer.
    Silent {
        /// Which.
        node: NodeId,
    },
    /// Wrong input.
    Invalid {
        /// The field, its value, what would be right.
        reason: String,
    },
    /// The state forbids it.
    Forbidden {
        /// Why.
        reason: String,
    },
}

/// What the register answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegisterAnswer {
    /// It holds this, under this version.
    Found {
        /// The shell's number for what it found: a swap names it.
        version: u64,
        /// The configuration.
        config: Box<Config>,
    },
    /// It holds what was asked for now.
    Swapped,
    /// Somebody else swapped it first: nothing was changed.
    Conflict,
    /// It is gone, or another one, or what it holds is no configuration.
    Lost {
        /// What was found.
        reason: String,
    },
    /// It could not be asked, refused, or did not answer. A swap may have happened, or may still happen.
    Failed,
}

/// One input of [`crate::Replica::step`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Time passed: [`crate::Replica::deadline`] was reached.
    Tick,
    /// The front end asks.
    Request(Request),
    /// A connection to a peer is up and both ends have proven that they know the key.
    LinkUp {
        /// The peer.
        peer: NodeId,
        /// Over which network.
        net: Net,
        /// Its name from now on. Replaces an older connection over the same network.
        conn: ConnId,
    },
    /// A connection is gone; or, with a number that was never up and `reset`, a peer refused a new one.
    LinkDown {
        /// The peer.
        peer: NodeId,
        /// The connection.
        conn: ConnId,
        /// True if it was reset or refused, false if it was closed in order.
        reset: bool,
    },
    /// Bytes came in that are not a whole frame yet: a sign of life.
    Alive {
        /// The peer.
        peer: NodeId,
        /// The connection.
        conn: ConnId,
    },
    /// A whole frame came in; its checksums are right.
    Frame {
        /// The peer.
        peer: NodeId,
        /// The connection.
        conn: ConnId,
        /// The frame.
        frame: Frame,
        /// Its payload. The core releases it.
        payload: Option<BufId>,
    },
    /// The supervisor of a node reports that its worker's run has exited (authenticated as that node's).
    ProcessExited {
        /// The node.
        node: NodeId,
        /// The run.
        incarnation: Incarnation,
        /// It will be started again at once.
        restarting: bool,
    },
    /// A disk operation ended.
    DiskDone {
        /// Which.
        io: IoId,
        /// How.
        result: Result<(), DiskError>,
    },
    /// A digest operation ended.
    DiskDigests {
        /// Which.
        io: IoId,
        /// One digest per block.
        result: Result<Vec<Digest>, DiskError>,
    },
    /// Everything up to this token is durable.
    Persisted {
        /// The token.
        token: PersistToken,
    },
    /// Metadata cannot be written any more. The replica has failed, and can vote no more.
    PersistFailed,
    /// The register has answered.
    Register {
        /// Which question.
        ask: RegisterAsk,
        /// What.
        answer: RegisterAnswer,
    },
    /// Something was heard of Leases.
    Lease {
        /// What it answers; [`None`] if it was heard unasked.
        ask: Option<LeaseAsk>,
        /// What.
        told: LeaseTold,
    },
    /// An operator asks.
    Command {
        /// Named by the shell.
        id: CommandId,
        /// What.
        command: Command,
    },
}
