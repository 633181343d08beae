//! What members of a volume say to each other. One message is one frame; `docs/protocol.md` has the table.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::bitmap::Chunk;
use crate::config::Config;
use crate::ids::{
    AskId, BootId, Digest, Epoch, FlushId, GrantNumber, Incarnation, NodeId, ReadId, RecallId, Round, SessionId,
    VoterId, WriteId,
};
use crate::range::BlockRange;

/// A network between two nodes (R10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Net {
    /// The dedicated link: preferred while it works.
    Dedicated = 0,
    /// The ordinary network.
    Ordinary = 1,
}

/// Under which session, epoch and left set a frame was sent. Receivers refuse or ignore what does not match.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Stamp {
    /// Session of the two engines; 0 in messages that belong to no session.
    pub session: SessionId,
    /// Epoch that the sender has installed.
    pub epoch: Epoch,
    /// Left marks that the sender holds: bit i for the i-th node of the configuration's `replicas`.
    pub left: u8,
}

/// One frame without its payload. Payload bytes travel beside it, with their CRC32C.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Session, epoch, left set.
    pub stamp: Stamp,
    /// What is said.
    pub message: Message,
}

/// Ballot of a round at the quorum of peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ballot {
    /// Rises.
    pub number: u64,
    /// Breaks ties.
    pub node: NodeId,
    /// Breaks ties between runs of one node.
    pub incarnation: Incarnation,
}

/// What a write does to its range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WriteKind {
    /// Writes the payload.
    Data,
    /// Writes zeroes; the range stays allocated where it was.
    Zeroes,
    /// Discards: reads as zeroes afterwards, space may be given back.
    Discard,
}

/// Why a write, read or question was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// The epoch or left set is older than the receiver's. Its configuration follows in an [`Message::Install`].
    Stale,
    /// The receiver is not an in-sync (or joining) replica.
    NotReplica,
    /// The sender is not attached for writing.
    NotWriter,
    /// The grant number is below the highest known, or another holder's.
    Grant,
    /// It overlaps an in-flight write of another writer of the same epoch.
    Overlap,
    /// It leaves the volume.
    OutOfRange,
    /// The receiver's disk failed.
    Disk,
    /// The receiver's pool is full, and it is the last in-sync replica.
    NoSpace,
    /// The receiver may not serve reads now.
    NoReadPermission,
}

/// Who goes first when several want the same range. Higher is served first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Class {
    /// Background copying.
    Resync = 0,
    /// A volume, or an attachment, of low priority.
    Low = 1,
    /// The usual.
    #[default]
    Normal = 2,
    /// A volume, or an attachment, of high priority.
    High = 3,
    /// Moves a volume's grants as a whole, or repairs.
    Recovery = 4,
}

impl Class {
    /// The class with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Class> {
        match number {
            0 => Some(Class::Resync),
            1 => Some(Class::Low),
            2 => Some(Class::Normal),
            3 => Some(Class::High),
            4 => Some(Class::Recovery),
            _ => None,
        }
    }
}

/// A write that its replica applied and does not know to be committed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uncommitted {
    /// Where.
    pub range: BlockRange,
    /// Whose.
    pub writer: NodeId,
    /// Which run of the writer's engine.
    pub incarnation: Incarnation,
    /// Under which grant.
    pub grant: GrantNumber,
    /// Which write.
    pub id: WriteId,
}

/// Everything that is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    // ---- between engines, no session needed ----
    /// Sign of life, on every network; asks for an answer.
    Heartbeat {
        /// Sender's run.
        incarnation: Incarnation,
        /// Sender's clock, to be echoed.
        sent_at: u64,
        /// Session that the sender believes current with the receiver.
        session: SessionId,
        /// Generation of the sender's configuration.
        generation: u64,
    },
    /// Answer to a heartbeat.
    HeartbeatAnswer {
        /// Sender's run.
        incarnation: Incarnation,
        /// The echoed clock.
        sent_at: u64,
        /// True if the sender counts the asker as a member of its installed configuration (grants read permission).
        permits: bool,
    },
    /// Opens a session, and replaces every older one. Answered by the same with `answer` set.
    Hello {
        /// Sender's run.
        incarnation: Incarnation,
        /// Run of the receiver that the sender knows of, 0 if none.
        to: Incarnation,
        /// The boot of the sender.
        boot: BootId,
        /// Session proposed or confirmed.
        session: SessionId,
        /// True if this confirms the session.
        answer: bool,
        /// Highest *decided* configuration that is durable at the sender.
        config: Box<Config>,
        /// Left marks of the sender.
        left: Vec<(NodeId, Incarnation)>,
    },
    /// The supervisor of `node` reports that this run of its worker has exited.
    ExitReport {
        /// The node.
        node: NodeId,
        /// The run that exited.
        incarnation: Incarnation,
        /// True if the supervisor starts it again at once.
        restarting: bool,
    },
    /// CASPaxos, phase 1.
    Prepare {
        /// Ballot.
        ballot: Ballot,
        /// Generation of the register.
        generation: u64,
    },
    /// Answer to [`Message::Prepare`].
    Promise {
        /// Ballot answered.
        ballot: Ballot,
        /// Identity of the voter's memory.
        voter: VoterId,
        /// What it accepted last.
        accepted: Option<(Ballot, Box<Config>)>,
    },
    /// CASPaxos, phase 2.
    Accept {
        /// Ballot.
        ballot: Ballot,
        /// The value.
        config: Box<Config>,
    },
    /// Answer to [`Message::Accept`].
    Accepted {
        /// Ballot answered.
        ballot: Ballot,
        /// Identity of the voter's memory.
        voter: VoterId,
    },
    /// A higher ballot was promised, or this voter has no memory of the generation.
    NoVote {
        /// Ballot answered.
        ballot: Ballot,
        /// Highest promised.
        promised: Ballot,
        /// False if the voter has no vote at all (no memory).
        has_memory: bool,
    },
    /// A voter's memory is to be made, empty, under this identity (it lost its file, a swap removed its old identity).
    VoterAdmit {
        /// The new identity.
        voter: VoterId,
        /// Configuration that the admission starts from.
        config: Box<Config>,
    },
    /// Answer to [`Message::VoterAdmit`]: the memory is durable.
    VoterAdmitted {
        /// The identity.
        voter: VoterId,
    },

    // ---- of a session ----
    /// A writer wants the grant over a range.
    GrantAsk {
        /// Number.
        id: AskId,
        /// What it needs.
        range: BlockRange,
        /// How urgently.
        class: Class,
        /// Nanoseconds that it has waited already.
        waited: u64,
    },
    /// The granting node gives a range: at least what was asked for.
    Granted {
        /// The question.
        id: AskId,
        /// Whole extents.
        range: BlockRange,
        /// Number of the grant.
        number: GrantNumber,
    },
    /// The granting node wants a range back.
    Recall {
        /// Number.
        id: RecallId,
        /// What it would like: whole extents.
        range: BlockRange,
        /// What it must have; within `range`.
        needed: BlockRange,
        /// For whom.
        class: Class,
    },
    /// Everything that the sender wrote in the recalled range is on all replicas, and it holds nothing of it any more but this.
    Released {
        /// The recall.
        id: RecallId,
        /// What it keeps of the range.
        kept: Vec<BlockRange>,
    },
    /// A decided configuration, to be installed.
    Install {
        /// The configuration.
        config: Box<Config>,
        /// Left marks of the sender.
        left: Vec<(NodeId, Incarnation)>,
    },
    /// The sender has installed the epoch and left set of the stamp; what it has to report in it.
    Installed {
        /// For each node that this view removed: nanoseconds since the sender last answered its heartbeat.
        answered: Vec<(NodeId, u64)>,
        /// Applied, not known committed.
        uncommitted: Vec<Uncommitted>,
        /// Blocks of write intent found on disk at start that no reconcile has settled yet.
        suspect: Vec<BlockRange>,
        /// Highest grant known.
        grant: GrantNumber,
        /// What a writer of a multi-writer volume holds.
        holds: Vec<BlockRange>,
    },
    /// A write to apply. Payload for [`WriteKind::Data`].
    Write {
        /// Number.
        id: WriteId,
        /// Grant under which it runs.
        grant: GrantNumber,
        /// Where.
        range: BlockRange,
        /// What.
        kind: WriteKind,
        /// Acknowledge only when durable.
        durable: bool,
        /// All writes below this are committed.
        floor: WriteId,
        /// All flushes below this are confirmed by all.
        flush_floor: FlushId,
    },
    /// The write is applied (or durable, if that was asked).
    WriteAck {
        /// Number.
        id: WriteId,
    },
    /// The write was not applied.
    WriteRefused {
        /// Number.
        id: WriteId,
        /// Why.
        reason: Refusal,
    },
    /// Tells what is committed and confirmed, where no other frame did.
    Commit {
        /// All writes below this are committed.
        floor: WriteId,
        /// All flushes below this are confirmed by all.
        flush_floor: FlushId,
    },
    /// Asks the writer for a [`Message::Commit`] now.
    CommitWanted,
    /// Make durable everything that you acknowledged.
    Flush {
        /// Number.
        id: FlushId,
        /// All writes of the sender below this are committed.
        floor: WriteId,
    },
    /// Done, durable.
    FlushAck {
        /// Number.
        id: FlushId,
    },
    /// Reads on behalf of a member without readable data.
    Read {
        /// Number.
        id: ReadId,
        /// Where.
        range: BlockRange,
    },
    /// The data, as payload.
    ReadReply {
        /// Number.
        id: ReadId,
        /// Where.
        range: BlockRange,
    },
    /// No data.
    ReadRefused {
        /// Number.
        id: ReadId,
        /// Why.
        reason: Refusal,
    },
    /// Asks for the digests of a range.
    DigestAsk {
        /// Number.
        id: ReadId,
        /// Where.
        range: BlockRange,
    },
    /// Digests of a range, one per block.
    Digests {
        /// Number.
        id: ReadId,
        /// Where.
        range: BlockRange,
        /// One per block.
        digests: Vec<Digest>,
    },
    /// Reconcile: overwrite the range with the payload, as this write would have.
    RollForward {
        /// Number of the step.
        id: ReadId,
        /// Where.
        range: BlockRange,
        /// The grant of the write that won; its (or the granting node's) number.
        grant: GrantNumber,
        /// The write that won; 0 for the granting node's copy.
        write: WriteId,
    },
    /// Done.
    RollForwardAck {
        /// Number of the step.
        id: ReadId,
    },
    /// Everything in flight at the change of view is settled.
    ReconcileDone,
    /// A joining replica begins a round; asks for the dirty map from `from` on.
    MapAsk {
        /// Round.
        round: Round,
        /// First block of interest.
        from: u64,
        /// The absent peer whose map is wanted; the asker itself for its own.
        peer: NodeId,
    },
    /// A part of a dirty map.
    MapPart {
        /// Round.
        round: Round,
        /// The absent peer.
        peer: NodeId,
        /// False if the source has no valid map: everything has to be compared.
        valid: bool,
        /// The peer's last epoch in sync.
        since: Epoch,
        /// Chunks: number, blocks to copy, blocks to compare.
        chunks: Vec<(u64, Chunk, Chunk)>,
        /// First block that was not covered; `None` at the end.
        next: Option<u64>,
        /// Peers for which the source keeps a map (sent with the asker's own).
        absent: Vec<NodeId>,
    },
    /// A joining replica wants data.
    Pull {
        /// Round.
        round: Round,
        /// Number.
        id: ReadId,
        /// Where.
        range: BlockRange,
    },
    /// The data, as payload.
    Pulled {
        /// Round.
        round: Round,
        /// Number.
        id: ReadId,
        /// Where.
        range: BlockRange,
    },
    /// A joining replica made these durable: the source may clear them from its map.
    PulledDurable {
        /// Round.
        round: Round,
        /// What.
        ranges: Vec<BlockRange>,
    },
    /// The sender wants to leave as planned.
    LeaveAsk,
    /// Answer to [`Message::LeaveAsk`].
    LeaveAnswer {
        /// True: the sender promises to stay, for as long as its epoch and left set are those of the stamp.
        stays: bool,
    },
    /// The sender has left: it made its mark durable.
    Goodbye {
        /// The incarnation that left.
        incarnation: Incarnation,
    },
    /// The sender holds the mark of the receiver durably.
    GoodbyeSeen,
    /// The sender is to attach the volume in the place of a writer, and waits until that is expelled.
    AttachWanted,
}
