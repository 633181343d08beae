//! Finding the newest state after a crash.
//!
//! Sequences rise by one with every batch, over both areas, for ever; one commit is on its way at a time; a snapshot is
//! durable before the first batch behind it. Therefore:
//!
//! - the area with the higher sequence is current, if its snapshot is whole; it was torn while being written if it is
//!   not, and the other area reaches its sequence;
//! - the log ends at the first batch that is not whole: it was torn, and nobody was told that it is durable;
//! - *unless* something anywhere proves that it had been durable: the head of a batch at least two further, a whole
//!   batch that follows it, or a snapshot that contains it. Then something durable was lost, and going on with the
//!   rest would forget promises. That is an error, and the replica is Failed.

use lockstep_core::{Meta, MetaUpdate};
use thiserror::Error;

use super::area::Header;
use super::batch::Head;
use super::journal::{AREAS, Area, Journal, LOG_BYTES};
use super::meta::decode_meta;
use super::{ALIGN, DiskVersion, Owner};
use crate::bytes::DecodeValue;

/// Why metadata cannot be gone by. The replica is Failed with this reason, and its files stay untouched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LoadMeta {
    /// Neither area has a whole snapshot.
    #[error("metadata: no area has a whole snapshot")]
    NoSnapshot,
    /// Written by a newer program.
    #[error("metadata: version {0} is newer than this program")]
    NewerVersion(u16),
    /// A version that never was.
    #[error("metadata: there is no version {0}")]
    UnknownVersion(u16),
    /// An area of another volume or node.
    #[error("metadata: of another volume or node")]
    OtherOwner,
    /// A durable batch cannot be read: later ones follow it.
    #[error("metadata: batch {wanted} is damaged or missing, though {found} was written after it")]
    LostBatch {
        /// The one that cannot be read.
        wanted: u64,
        /// The one that proves that it had been durable.
        found: u64,
    },
    /// A snapshot whose checksum is right has a content that is wrong.
    #[error("metadata: snapshot: {0}")]
    Snapshot(DecodeValue),
    /// A batch whose checksum is right has a content that is wrong.
    #[error("metadata: batch {sequence}: {source}")]
    Batch {
        /// Which.
        sequence: u64,
        /// Why.
        source: DecodeValue,
    },
}

/// Finds the newest state in the two areas (empty slices where a file does not exist). The journal that is returned
/// goes on behind it.
///
/// # Errors
/// If the areas cannot be gone by.
pub fn load(owner: Owner, areas: [&[u8]; AREAS]) -> Result<Journal, LoadMeta> {
    let mut newest: Option<Journal> = None;
    for area in [Area::First, Area::Second] {
        let Some(journal) = replay(owner, area, areas[area.index()])? else { continue };
        if newest.as_ref().is_none_or(|other| journal.sequence > other.sequence) {
            newest = Some(journal);
        }
    }
    let newest = newest.ok_or(LoadMeta::NoSnapshot)?;
    let wanted = newest.sequence + 1;
    match areas.into_iter().filter_map(|area| proof_beyond(owner, newest.sequence, area)).max() {
        Some(found) => Err(LoadMeta::LostBatch { wanted, found }),
        None => Ok(newest),
    }
}

/// The state of one area, if its snapshot is whole.
fn replay(owner: Owner, area: Area, bytes: &[u8]) -> Result<Option<Journal>, LoadMeta> {
    let Some(header) = Header::decode(bytes) else { return Ok(None) };
    let version = match DiskVersion::from_number(header.version) {
        Some(version) => version,
        None if header.version > DiskVersion::NEWEST as u16 => return Err(LoadMeta::NewerVersion(header.version)),
        None => return Err(LoadMeta::UnknownVersion(header.version)),
    };
    if header.owner != owner {
        return Err(LoadMeta::OtherOwner);
    }
    let Some((snapshot, log_start)) = header.snapshot(bytes) else { return Ok(None) };
    let mut meta = decode_meta(version, snapshot).map_err(LoadMeta::Snapshot)?;
    check_owner(owner, &meta)?;
    let (mut sequence, mut log_end) = (header.sequence, log_start);
    while let Some((head, content)) = next_batch(owner, sequence, &bytes[log_end..]) {
        let updates =
            head.updates(version, content).map_err(|source| LoadMeta::Batch { sequence: head.sequence, source })?;
        for update in &updates {
            check_volume(owner, update)?;
            meta.apply(update);
        }
        sequence = head.sequence;
        log_end += head.batch_bytes();
    }
    let (log_start, log_end) = (log_start as u64, log_end as u64);
    Ok(Some(Journal { owner, meta, version, area, sequence, log_start, log_end, log_bytes: LOG_BYTES }))
}

/// The batch at the start of `bytes`, if it is whole and follows `sequence`.
fn next_batch(owner: Owner, sequence: u64, bytes: &[u8]) -> Option<(Head, &[u8])> {
    let head = Head::decode(owner, bytes).filter(|head| Some(head.sequence) == sequence.checked_add(1))?;
    Some((head, head.content(bytes)?))
}

/// The highest sequence in this area that proves that more than `reached` had been durable.
fn proof_beyond(owner: Owner, reached: u64, area: &[u8]) -> Option<u64> {
    let snapshot = Header::decode(area).map(|header| header.sequence).filter(|sequence| *sequence > reached);
    let batches = (ALIGN..area.len()).step_by(ALIGN).filter_map(|offset| {
        let bytes = &area[offset..];
        let head = Head::decode(owner, bytes).filter(|head| head.sequence > reached)?;
        // The head alone of the very next batch proves nothing: that write was torn.
        (head.sequence - reached > 1 || head.content(bytes).is_some()).then_some(head.sequence)
    });
    batches.chain(snapshot).max()
}

fn check_owner(owner: Owner, meta: &Meta) -> Result<(), LoadMeta> {
    if (meta.config.volume, meta.node) == (owner.volume, owner.node) { Ok(()) } else { Err(LoadMeta::OtherOwner) }
}

fn check_volume(owner: Owner, update: &MetaUpdate) -> Result<(), LoadMeta> {
    match update {
        MetaUpdate::Config(config) if config.volume != owner.volume => Err(LoadMeta::OtherOwner),
        _ => Ok(()),
    }
}
