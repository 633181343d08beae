//! Newtypes for every number that could be confused with another.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A node of the cluster. The order of nodes ("the lowest node") is the order of these numbers.
    NodeId, u32);
number!(
    /// One run of an engine process on a node. The shell supplies it: strictly rising per node.
    Incarnation, u64);
number!(
    /// Identifies one boot of the machine's kernel: tells whether data in the page cache and disk cache survived.
    BootId, u64);
number!(
    /// Number of a configuration within its generation; rises by one with every swap.
    Epoch, u64);
number!(
    /// One connection period of two engines for one volume. A higher number replaces all lower ones.
    SessionId, u64);
number!(
    /// Number of a write, unique and rising within one incarnation of its writer.
    WriteId, u64);
number!(
    /// Number of a flush, unique and rising within one incarnation of its issuer.
    FlushId, u64);
number!(
    /// Number of a read that is served by a peer, unique within one incarnation of the reader.
    ReadId, u64);
number!(
    /// Round of a resync: a new one begins with every change of epoch or of source.
    Round, u64);
number!(
    /// A request of the front end. Chosen by the shell, unique while the request is open.
    RequestId, u64);
number!(
    /// An operator's command. Chosen by the shell, unique while the command is open.
    CommandId, u64);
number!(
    /// A disk operation that the core asked for.
    IoId, u64);
number!(
    /// A metadata update that the core asked to make durable. Durability is in order of these numbers.
    PersistToken, u64);
number!(
    /// One network connection to a peer; the shell never uses a number twice.
    ConnId, u64);
number!(
    /// Identity of a voter's memory. A voter that lost its file gets a new one before it may vote again.
    VoterId, u64);
number!(
    /// A node's question for a grant, unique within one incarnation of the asker.
    AskId, u64);
number!(
    /// The granting node's demand that a range be given back, unique within one incarnation of the granting node.
    RecallId, u64);
number!(
    /// A question to a register elsewhere, unique within one incarnation of the asker.
    RegisterAsk, u64);
number!(
    /// Something wanted of Leases elsewhere, unique within one incarnation.
    LeaseAsk, u64);
number!(
    /// A block of 4096 bytes, counted from the start of the volume.
    BlockIndex, u64);
number!(
    /// A region of the write-intent bitmap.
    RegionIndex, u64);

/// Identity of a volume, random, fixed at creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VolumeId(pub [u8; 16]);

/// Digest of one block's content (the first 16 bytes of BLAKE3 in production).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Digest(pub [u8; 16]);

/// Names memory that holds the data of one request or frame. See [`crate::Effect::Release`].
///
/// Buffers that the shell hands in carry numbers below [`BufId::CORE`]; those that the core asks for (to read from
/// disk on behalf of a peer) carry numbers from there on, and the shell provides memory at the first mention.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BufId(pub u64);

impl BufId {
    /// First number of the buffers that the core names.
    pub const CORE: u64 = 1 << 63;
}

/// Number of a grant: the epoch in which it was given, and a counter in it. Rises with every new holder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GrantNumber {
    /// Epoch in which the grant was given.
    pub epoch: Epoch,
    /// Rises within the epoch.
    pub counter: u64,
}

/// Identifies one attempted swap of the configuration, so that a lost answer can be recognised as done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestTag {
    /// Incarnation that asked.
    pub incarnation: Incarnation,
    /// Rises within the incarnation.
    pub number: u64,
}

/// A point on the local monotonic clock, in nanoseconds. Never compared between nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// Later than every point that is reached.
    pub const NEVER: Time = Time(u64::MAX);

    /// This point plus `nanos` nanoseconds.
    #[must_use]
    pub const fn after(self, nanos: u64) -> Time {
        Time(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to this point; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
