//! Encodings of the core types that frames and metadata share.

use std::collections::BTreeMap;

use lockstep_core::bitmap::{CHUNK_WORDS, Chunk};
use lockstep_core::{
    Access, Ack, Arbiter, AttachMode, Attachment, Ballot, BlockRange, BlockSet, Class, Config, Epoch, Generation,
    GrantNumber, Incarnation, Joining, NodeId, OnQuorumLoss, Policing, RequestTag, Settings, VolumeId, VoterId,
};

use crate::bytes::{DecodeValue, Layout, Reader, Writer};

/// No volume has more blocks: its bytes are counted in 64 bits.
pub(crate) const VOLUME_BLOCKS_MAX: u64 = u64::MAX / lockstep_core::range::BLOCK_BYTES;

pub(crate) fn put_range(w: &mut Writer<'_>, range: BlockRange) {
    w.u64(range.start);
    w.u64(range.end);
}

/// A range of a request or report: never empty, never backwards.
pub(crate) fn take_range(r: &mut Reader<'_>) -> Result<BlockRange, DecodeValue> {
    let (start, end) = (r.u64()?, r.u64()?);
    if start >= end || end > VOLUME_BLOCKS_MAX {
        return Err(DecodeValue::BadRange { start, end });
    }
    Ok(BlockRange::new(start, end))
}

pub(crate) fn put_grant(w: &mut Writer<'_>, grant: GrantNumber) {
    w.u64(grant.epoch.0);
    w.u64(grant.counter);
}

pub(crate) fn take_grant(r: &mut Reader<'_>) -> Result<GrantNumber, DecodeValue> {
    Ok(GrantNumber { epoch: Epoch(r.u64()?), counter: r.u64()? })
}

pub(crate) fn take_class(r: &mut Reader<'_>) -> Result<Class, DecodeValue> {
    let tag = r.u8()?;
    Class::from_number(tag).ok_or(DecodeValue::UnknownTag { what: "class of a grant", tag })
}

pub(crate) fn put_ballot(w: &mut Writer<'_>, ballot: Ballot) {
    w.u64(ballot.number);
    w.u32(ballot.node.0);
    w.u64(ballot.incarnation.0);
}

pub(crate) fn take_ballot(r: &mut Reader<'_>) -> Result<Ballot, DecodeValue> {
    Ok(Ballot { number: r.u64()?, node: NodeId(r.u32()?), incarnation: Incarnation(r.u64()?) })
}

pub(crate) fn put_accepted(w: &mut Writer<'_>, accepted: Option<&(Ballot, Box<Config>)>) {
    w.bool(accepted.is_some());
    if let Some((ballot, config)) = accepted {
        put_ballot(w, *ballot);
        put_config(w, config);
    }
}

pub(crate) fn take_accepted(r: &mut Reader<'_>) -> Result<Option<(Ballot, Box<Config>)>, DecodeValue> {
    if !r.bool("accepted")? {
        return Ok(None);
    }
    Ok(Some((take_ballot(r)?, Box::new(take_config(r)?))))
}

/// Bytes of the smallest encoded pair of bitmaps: number and tag.
pub(crate) const CHUNKS_BYTES_MIN: usize = 9;

const EMPTY: u8 = 0;
const FULL: u8 = 1;
const MIXED: u8 = 2;

/// Two bitmaps of one chunk (to copy, to compare) under its number. A bitmap that is all zero or all one, which most
/// are after an absence, takes no bytes of its own.
pub(crate) fn put_chunks(w: &mut Writer<'_>, number: u64, copy: &Chunk, compare: &Chunk) {
    w.u64(number);
    w.u8(shape(copy) | shape(compare) << 4);
    for chunk in [copy, compare] {
        if shape(chunk) == MIXED {
            for word in chunk {
                w.u64(*word);
            }
        }
    }
}

pub(crate) fn take_chunks(r: &mut Reader<'_>) -> Result<(u64, Chunk, Chunk), DecodeValue> {
    let number = r.u64()?;
    if number > VOLUME_BLOCKS_MAX / lockstep_core::range::CHUNK_BLOCKS {
        return Err(DecodeValue::OutOfBounds("number of a chunk"));
    }
    let shapes = r.u8()?;
    let copy = take_bitmap(r, shapes & 0xf)?;
    let compare = take_bitmap(r, shapes >> 4)?;
    Ok((number, copy, compare))
}

fn shape(chunk: &Chunk) -> u8 {
    if chunk.iter().all(|word| *word == 0) {
        EMPTY
    } else if chunk.iter().all(|word| *word == u64::MAX) {
        FULL
    } else {
        MIXED
    }
}

fn take_bitmap(r: &mut Reader<'_>, tag: u8) -> Result<Chunk, DecodeValue> {
    match tag {
        EMPTY => Ok([0; CHUNK_WORDS]),
        FULL => Ok([u64::MAX; CHUNK_WORDS]),
        MIXED => {
            let mut chunk = [0; CHUNK_WORDS];
            for word in &mut chunk {
                *word = r.u64()?;
            }
            if shape(&chunk) == MIXED { Ok(chunk) } else { Err(DecodeValue::UnknownTag { what: "bitmap", tag }) }
        }
        tag => Err(DecodeValue::UnknownTag { what: "bitmap", tag }),
    }
}

/// Every chunk that either set has, in order.
pub(crate) fn chunks_of<'a>(
    copy: &'a BlockSet,
    compare: &'a BlockSet,
) -> impl Iterator<Item = (u64, Chunk, Chunk)> + 'a {
    let mut numbers: Vec<u64> = copy.chunks().chain(compare.chunks()).map(|(number, _)| number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(|number| (number, copy.chunk(number), compare.chunk(number)))
}

pub(crate) fn put_left(w: &mut Writer<'_>, left: (NodeId, Incarnation)) {
    w.u32(left.0.0);
    w.u64(left.1.0);
}

pub(crate) fn take_left(r: &mut Reader<'_>) -> Result<(NodeId, Incarnation), DecodeValue> {
    Ok((NodeId(r.u32()?), Incarnation(r.u64()?)))
}

pub(crate) fn put_config(w: &mut Writer<'_>, config: &Config) {
    w.raw(&config.volume.0);
    w.u64(config.generation.id);
    w.u64(config.generation.parent);
    w.u64(config.epoch.0);
    w.u64(config.size_blocks);
    w.u8(match config.settings.ack {
        Ack::Disk => 0,
        Ack::Durable => 1,
    });
    w.u8(match config.settings.on_quorum_loss {
        OnQuorumLoss::Suspend => 0,
        OnQuorumLoss::Error => 1,
    });
    w.u8(match config.settings.access {
        Access::SingleWriter => 0,
        Access::MultiWriter => 1,
    });
    w.u8(match config.settings.arbiter {
        Arbiter::Peers => 0,
        Arbiter::Lease => 1,
    });
    w.u64(config.settings.extent_blocks);
    match config.settings.policing {
        Policing::Peer => w.u8(0),
        Policing::Lease { shards, shard_blocks } => {
            w.u8(shards);
            w.u64(shard_blocks);
        }
    }
    w.u8(config.priority as u8);
    w.count(config.replicas.len());
    for node in &config.replicas {
        w.u32(node.0);
    }
    w.bool(config.tie_breaker.is_some());
    if let Some(node) = config.tie_breaker {
        w.u32(node.0);
    }
    put_map(w, &config.voters, |w, voter| w.u64(voter.0));
    put_map(w, &config.in_sync, |w, incarnation| w.u64(incarnation.0));
    put_map(w, &config.joining, |w, joining| {
        w.u64(joining.incarnation.0);
        w.u32(joining.source.0);
    });
    put_map(w, &config.attached, |w, attachment| {
        w.u64(attachment.incarnation.0);
        w.u8(match attachment.mode {
            AttachMode::ReadWrite => 0,
            AttachMode::ReadOnly => 1,
        });
        w.bool(attachment.recoverable);
        w.u64(attachment.since.0);
        w.bool(attachment.class.is_some());
        if let Some(class) = attachment.class {
            w.u8(class as u8);
        }
    });
    put_map(w, &config.last_in_sync, |w, epoch| w.u64(epoch.0));
    put_map(w, &config.requests, |w, tag| {
        w.u64(tag.incarnation.0);
        w.u64(tag.number);
    });
    if w.layout() >= Layout::Added {
        put_map(w, &config.added, |w, epoch| w.u64(epoch.0));
    }
}

/// The oldest layout that can say this: whoever knows no newer one understands it.
pub(crate) fn layout_of(config: &Config) -> Layout {
    if config.added.is_empty() { Layout::Original } else { Layout::Added }
}

/// A configuration, checked: what comes out could be a volume's.
pub(crate) fn take_config(r: &mut Reader<'_>) -> Result<Config, DecodeValue> {
    let volume = VolumeId(r.array()?);
    let generation = Generation { id: r.u64()?, parent: r.u64()? };
    let epoch = Epoch(r.u64()?);
    let size_blocks = r.u64()?;
    if size_blocks > VOLUME_BLOCKS_MAX {
        return Err(DecodeValue::OutOfBounds("size of the volume"));
    }
    let ack = match r.u8()? {
        0 => Ack::Disk,
        1 => Ack::Durable,
        tag => return Err(DecodeValue::UnknownTag { what: "ack", tag }),
    };
    let on_quorum_loss = match r.u8()? {
        0 => OnQuorumLoss::Suspend,
        1 => OnQuorumLoss::Error,
        tag => return Err(DecodeValue::UnknownTag { what: "on quorum loss", tag }),
    };
    let access = match r.u8()? {
        0 => Access::SingleWriter,
        1 => Access::MultiWriter,
        tag => return Err(DecodeValue::UnknownTag { what: "access", tag }),
    };
    let arbiter = match r.u8()? {
        0 => Arbiter::Peers,
        1 => Arbiter::Lease,
        tag => return Err(DecodeValue::UnknownTag { what: "arbiter", tag }),
    };
    let extent_blocks = r.u64()?;
    let policing = match r.u8()? {
        0 => Policing::Peer,
        shards => Policing::Lease { shards, shard_blocks: r.u64()? },
    };
    let priority = take_class(r)?;
    let replicas = take_map(r, "replicas", 0, |_| Ok(()))?.into_keys().collect();
    let tie_breaker = if r.bool("tie-breaker")? { Some(NodeId(r.u32()?)) } else { None };
    let mut config = Config {
        volume,
        generation,
        epoch,
        size_blocks,
        settings: Settings { ack, on_quorum_loss, access, arbiter, extent_blocks, policing },
        priority,
        replicas,
        added: BTreeMap::new(),
        tie_breaker,
        voters: take_map(r, "voters", 8, |r| r.u64().map(VoterId))?,
        in_sync: take_map(r, "in_sync", 8, |r| r.u64().map(Incarnation))?,
        joining: take_map(r, "joining", 12, |r| {
            Ok(Joining { incarnation: Incarnation(r.u64()?), source: NodeId(r.u32()?) })
        })?,
        attached: take_map(r, "attached", 10, take_attachment)?,
        last_in_sync: take_map(r, "last_in_sync", 8, |r| r.u64().map(Epoch))?,
        requests: take_map(r, "requests", 16, |r| {
            Ok(RequestTag { incarnation: Incarnation(r.u64()?), number: r.u64()? })
        })?,
    };
    if r.layout() >= Layout::Added {
        config.added = take_map(r, "added", 8, |r| r.u64().map(Epoch))?;
    }
    config.check().map_err(DecodeValue::BadConfig)?;
    Ok(config)
}

fn take_attachment(r: &mut Reader<'_>) -> Result<Attachment, DecodeValue> {
    let incarnation = Incarnation(r.u64()?);
    let mode = match r.u8()? {
        0 => AttachMode::ReadWrite,
        1 => AttachMode::ReadOnly,
        tag => return Err(DecodeValue::UnknownTag { what: "attachment", tag }),
    };
    let (recoverable, since) = (r.bool("recoverable")?, Epoch(r.u64()?));
    let class = if r.bool("class")? { Some(take_class(r)?) } else { None };
    Ok(Attachment { incarnation, mode, recoverable, since, class })
}

pub(crate) fn put_map<V>(w: &mut Writer<'_>, map: &BTreeMap<NodeId, V>, mut value: impl FnMut(&mut Writer<'_>, &V)) {
    w.count(map.len());
    for (node, each) in map {
        w.u32(node.0);
        value(w, each);
    }
}

pub(crate) fn take_map<'a, V>(
    r: &mut Reader<'a>,
    what: &'static str,
    value_bytes: usize,
    mut value: impl FnMut(&mut Reader<'a>) -> Result<V, DecodeValue>,
) -> Result<BTreeMap<NodeId, V>, DecodeValue> {
    let mut map = BTreeMap::new();
    for _ in 0..r.count(4 + value_bytes)? {
        let node = NodeId(r.u32()?);
        if map.last_key_value().is_some_and(|(last, _)| *last >= node) {
            return Err(DecodeValue::NotRising(what));
        }
        map.insert(node, value(r)?);
    }
    Ok(map)
}
