//! Updates of metadata, as the log holds them.

use lockstep_core::{BootId, Epoch, Incarnation, MetaUpdate, NodeId, RegionIndex};

use super::meta::{put_reason, put_voter, take_reason, take_voter};
use crate::bytes::{DecodeValue, Layout, Reader, Writer};
use crate::values::{put_chunks, put_config, put_left, take_chunks, take_config, take_left};

/// Bytes of the shortest update: its tag.
pub(super) const UPDATE_BYTES_MIN: usize = 1;

const STARTED: u8 = 1;
const CONFIG: u8 = 2;
const LEFT: u8 = 3;
const LEFT_ENDED: u8 = 4;
const VOTER: u8 = 5;
const INTENT_SET: u8 = 6;
const INTENT_CLEAR: u8 = 7;
const DIRTY_BEGIN: u8 = 8;
const DIRTY_CHUNK: u8 = 9;
const DIRTY_END: u8 = 10;
const FAILED: u8 = 11;
const EMPTIED: u8 = 12;
const REMOVED: u8 = 13;

pub(super) fn put_update(w: &mut Writer<'_>, update: &MetaUpdate) {
    match update {
        MetaUpdate::Started { incarnation, boot } => {
            w.u8(STARTED);
            w.u64(incarnation.0);
            w.u64(boot.0);
        }
        MetaUpdate::Config(config) => {
            w.u8(CONFIG);
            put_config(w, config);
        }
        MetaUpdate::Left(node, incarnation) => {
            w.u8(LEFT);
            put_left(w, (*node, *incarnation));
        }
        MetaUpdate::LeftEnded(node, incarnation) => {
            w.u8(LEFT_ENDED);
            put_left(w, (*node, *incarnation));
        }
        MetaUpdate::Voter(voter) => {
            w.u8(VOTER);
            put_voter(w, voter);
        }
        MetaUpdate::IntentSet(regions) => put_regions(w, INTENT_SET, regions),
        MetaUpdate::IntentClear(regions) => put_regions(w, INTENT_CLEAR, regions),
        MetaUpdate::DirtyBegin { peer, since } => {
            w.u8(DIRTY_BEGIN);
            w.u32(peer.0);
            w.u64(since.0);
        }
        MetaUpdate::DirtyChunk { peer, chunk, copy, compare } => {
            w.u8(DIRTY_CHUNK);
            w.u32(peer.0);
            put_chunks(w, *chunk, copy, compare);
        }
        MetaUpdate::DirtyEnd(peer) => {
            w.u8(DIRTY_END);
            w.u32(peer.0);
        }
        MetaUpdate::Failed(reason) => {
            w.u8(FAILED);
            put_reason(w, reason);
        }
        MetaUpdate::Emptied => w.u8(EMPTIED),
        MetaUpdate::Removed => w.u8(REMOVED),
    }
}

fn put_regions(w: &mut Writer<'_>, tag: u8, regions: &[RegionIndex]) {
    w.u8(tag);
    w.list(regions, |w, region| w.u64(region.0));
}

pub(super) fn take_update(r: &mut Reader<'_>) -> Result<MetaUpdate, DecodeValue> {
    let regions = |r: &mut Reader<'_>| r.list(8, |r| r.u64().map(RegionIndex));
    Ok(match r.u8()? {
        STARTED => MetaUpdate::Started { incarnation: Incarnation(r.u64()?), boot: BootId(r.u64()?) },
        CONFIG => MetaUpdate::Config(Box::new(take_config(r)?)),
        LEFT => {
            let (node, incarnation) = take_left(r)?;
            MetaUpdate::Left(node, incarnation)
        }
        LEFT_ENDED => {
            let (node, incarnation) = take_left(r)?;
            MetaUpdate::LeftEnded(node, incarnation)
        }
        VOTER => MetaUpdate::Voter(take_voter(r)?),
        INTENT_SET => MetaUpdate::IntentSet(regions(r)?),
        INTENT_CLEAR => MetaUpdate::IntentClear(regions(r)?),
        DIRTY_BEGIN => MetaUpdate::DirtyBegin { peer: NodeId(r.u32()?), since: Epoch(r.u64()?) },
        DIRTY_CHUNK => {
            let peer = NodeId(r.u32()?);
            let (chunk, copy, compare) = take_chunks(r)?;
            MetaUpdate::DirtyChunk { peer, chunk, copy, compare }
        }
        DIRTY_END => MetaUpdate::DirtyEnd(NodeId(r.u32()?)),
        FAILED => MetaUpdate::Failed(take_reason(r)?),
        EMPTIED => MetaUpdate::Emptied,
        REMOVED if r.layout() >= Layout::Added => MetaUpdate::Removed,
        tag => return Err(DecodeValue::UnknownTag { what: "update", tag }),
    })
}
