//! The snapshot's content.

use std::collections::BTreeSet;

use lockstep_core::{BlockSet, BootId, DirtyMap, Epoch, Incarnation, Meta, NodeId, RegionIndex, VoterId, VoterState};

use super::{DiskVersion, REASON_BYTES_MAX};
use crate::bytes::{DecodeValue, Reader, Writer};
use crate::values::{
    CHUNKS_BYTES_MIN, chunks_of, put_accepted, put_ballot, put_chunks, put_config, put_left, put_map, take_accepted,
    take_ballot, take_chunks, take_config, take_left, take_map,
};

pub(super) fn encode_meta(meta: &Meta, out: &mut Vec<u8>) {
    let w = &mut Writer::new(out);
    w.u32(meta.node.0);
    w.bool(meta.has_data);
    put_config(w, &meta.config);
    w.u64(meta.incarnation.0);
    w.u64(meta.boot.0);
    w.count(meta.left.len());
    for mark in &meta.left {
        put_left(w, *mark);
    }
    w.bool(meta.voter.is_some());
    if let Some(voter) = &meta.voter {
        put_voter(w, voter);
    }
    w.count(meta.intent.len());
    for region in &meta.intent {
        w.u64(region.0);
    }
    put_map(w, &meta.dirty, put_dirty);
    w.bool(meta.failed.is_some());
    if let Some(reason) = &meta.failed {
        put_reason(w, reason);
    }
    w.bool(meta.removed);
}

pub(super) fn decode_meta(version: DiskVersion, bytes: &[u8]) -> Result<Meta, DecodeValue> {
    let r = &mut Reader::new(bytes).laid_out(version.layout());
    let meta = Meta {
        node: NodeId(r.u32()?),
        has_data: r.bool("has data")?,
        config: take_config(r)?,
        incarnation: Incarnation(r.u64()?),
        boot: BootId(r.u64()?),
        left: take_set(r, "left", 12, take_left)?,
        voter: if r.bool("voter")? { Some(take_voter(r)?) } else { None },
        intent: take_set(r, "intent", 8, |r| r.u64().map(RegionIndex))?,
        dirty: take_map(r, "dirty", 12, take_dirty)?,
        failed: if r.bool("failed")? { Some(take_reason(r)?) } else { None },
        removed: version >= DiskVersion::V2 && r.bool("removed")?,
    };
    r.clone().finish()?;
    Ok(meta)
}

fn take_set<'a, T: Ord>(
    r: &mut Reader<'a>,
    what: &'static str,
    item_bytes: usize,
    item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeValue>,
) -> Result<BTreeSet<T>, DecodeValue> {
    let items = r.list(item_bytes, item)?;
    if !items.is_sorted_by(|a, b| a < b) {
        return Err(DecodeValue::NotRising(what));
    }
    Ok(BTreeSet::from_iter(items))
}

fn put_dirty(w: &mut Writer<'_>, map: &DirtyMap) {
    w.u64(map.since.0);
    let chunks: Vec<_> = chunks_of(&map.copy, &map.compare).collect();
    w.list(&chunks, |w, (number, copy, compare)| put_chunks(w, *number, copy, compare));
}

fn take_dirty(r: &mut Reader<'_>) -> Result<DirtyMap, DecodeValue> {
    let since = Epoch(r.u64()?);
    let (mut copy, mut compare) = (BlockSet::new(), BlockSet::new());
    let mut last = None;
    for _ in 0..r.count(CHUNKS_BYTES_MIN)? {
        let (number, to_copy, to_compare) = take_chunks(r)?;
        if last.is_some_and(|last| last >= number) {
            return Err(DecodeValue::NotRising("chunks of a dirty map"));
        }
        last = Some(number);
        copy.set_chunk(number, to_copy);
        compare.set_chunk(number, to_compare);
    }
    Ok(DirtyMap { since, copy, compare })
}

pub(super) fn put_voter(w: &mut Writer<'_>, voter: &VoterState) {
    w.u64(voter.id.0);
    put_ballot(w, voter.promised);
    put_accepted(w, voter.accepted.as_ref());
}

pub(super) fn take_voter(r: &mut Reader<'_>) -> Result<VoterState, DecodeValue> {
    Ok(VoterState { id: VoterId(r.u64()?), promised: take_ballot(r)?, accepted: take_accepted(r)? })
}

pub(super) fn put_reason(w: &mut Writer<'_>, reason: &str) {
    let kept = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    w.count(kept.len());
    w.raw(kept.as_bytes());
}

pub(super) fn take_reason(r: &mut Reader<'_>) -> Result<String, DecodeValue> {
    let len = r.count(1)?;
    if len > REASON_BYTES_MAX {
        return Err(DecodeValue::OutOfBounds("length of a reason"));
    }
    String::from_utf8(r.slice(len)?.to_vec()).map_err(|_| DecodeValue::BadText)
}
