//! Where the next batch goes, and when a snapshot is due.

use lockstep_core::{Meta, MetaUpdate};

use super::area::encode_snapshot;
use super::batch::encode_batch;
use super::{DiskVersion, Owner};

/// Number of areas.
pub const AREAS: usize = 2;

/// A log longer than this (or than the snapshot before it, if that is longer) is followed by a snapshot. Long enough
/// that 2,000 commits of one block lie between two snapshots, short enough to be read and replayed in a moment.
pub const LOG_BYTES: u64 = 8 << 20;

/// One of the two areas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Area {
    /// The one that a new volume begins with.
    First,
    /// The other.
    Second,
}

impl Area {
    /// 0 or 1.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Area::First => 0,
            Area::Second => 1,
        }
    }

    pub(super) const fn other(self) -> Area {
        match self {
            Area::First => Area::Second,
            Area::Second => Area::First,
        }
    }
}

/// Bytes with their place: a multiple of 4096 at a multiple of 4096.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// In which area.
    pub area: Area,
    /// At which offset of it.
    pub offset: u64,
    /// How many.
    pub bytes: usize,
}

/// What a group commit writes. The bytes of the snapshot come first in the vector, those of the batch behind them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// A snapshot that has to be *durable* before the batch is written.
    pub snapshot: Option<Placed>,
    /// The batch. Durable, it makes the updates so.
    pub batch: Placed,
}

/// The metadata of one volume on one node, and where its log ends.
///
/// At most one commit may be on its way to the disk: the next one is written when this one is durable. That is how
/// [`super::load`] can tell a torn tail from a loss. After a failed write there is no next one: the replica is Failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journal {
    pub(super) owner: Owner,
    pub(super) meta: Meta,
    /// Of the area: what is appended to it has to be of the same.
    pub(super) version: DiskVersion,
    pub(super) area: Area,
    /// Of the last batch.
    pub(super) sequence: u64,
    pub(super) log_start: u64,
    /// Where the next batch goes.
    pub(super) log_end: u64,
    pub(super) log_bytes: u64,
}

impl Journal {
    /// Begins the metadata of a new volume: `out` gets what has to be durable in the first area, from offset 0 on,
    /// before the superblock is written. The second area is empty.
    #[must_use]
    pub fn create(owner: Owner, meta: Meta, out: &mut Vec<u8>) -> Journal {
        let log_start = encode_snapshot(owner, 0, &meta, out);
        let version = DiskVersion::NEWEST;
        let (area, log_bytes) = (Area::First, LOG_BYTES);
        Journal { owner, meta, version, area, sequence: 0, log_start, log_end: log_start, log_bytes }
    }

    /// Goes over to the other area after so many bytes of log instead of [`LOG_BYTES`]: for tests, which cannot wait.
    #[must_use]
    pub fn with_log_bytes(self, log_bytes: u64) -> Journal {
        Journal { log_bytes, ..self }
    }

    /// The metadata with every commit so far.
    #[must_use]
    pub const fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Appends to `out` what makes these updates durable, in this order, all or nothing.
    pub fn commit(&mut self, updates: &[&[MetaUpdate]], out: &mut Vec<u8>) -> Commit {
        let limit = self.log_bytes.max(self.log_start);
        let old = self.version != DiskVersion::NEWEST;
        let snapshot = (old || self.log_end - self.log_start >= limit).then(|| self.snapshot(out));
        let start = out.len();
        self.sequence += 1;
        encode_batch(self.owner, self.sequence, updates, out);
        for update in updates.iter().copied().flatten() {
            self.meta.apply(update);
        }
        let bytes = out.len() - start;
        let batch = Placed { area: self.area, offset: self.log_end, bytes };
        self.log_end += bytes as u64;
        Commit { snapshot, batch }
    }

    /// Goes over to the other area. The snapshot holds exactly what is durable in this one, so that nothing is lost
    /// when it is torn.
    fn snapshot(&mut self, out: &mut Vec<u8>) -> Placed {
        let start = out.len();
        self.log_start = encode_snapshot(self.owner, self.sequence, &self.meta, out);
        self.log_end = self.log_start;
        self.area = self.area.other();
        self.version = DiskVersion::NEWEST;
        Placed { area: self.area, offset: 0, bytes: out.len() - start }
    }
}
