//! From bodies to messages.

use lockstep_core::message::Uncommitted;
use lockstep_core::{
    AskId, BootId, Digest, Epoch, FlushId, Incarnation, Message, NodeId, ReadId, RecallId, Refusal, Round, SessionId,
    VoterId, WriteId, WriteKind,
};

use crate::bytes::{DecodeValue, Layout, Reader};
use crate::values::{
    CHUNKS_BYTES_MIN, take_accepted, take_ballot, take_chunks, take_class, take_config, take_grant, take_left,
    take_range,
};
use crate::wire::Kind;

/// Bytes of a range, a mark and an uncommitted write: for the check of a list's length.
const RANGE_BYTES: usize = 16;
const LEFT_BYTES: usize = 12;
const UNCOMMITTED_BYTES: usize = RANGE_BYTES + 4 + 8 + 16 + 8;

/// The message of this kind with this body.
pub(in crate::wire) fn decode(kind: Kind, layout: Layout, body: &[u8]) -> Result<Message, DecodeValue> {
    let mut r = Reader::new(body).laid_out(layout);
    let message = match kind {
        Kind::Write
        | Kind::WriteAck
        | Kind::WriteRefused
        | Kind::Commit
        | Kind::CommitWanted
        | Kind::Flush
        | Kind::FlushAck => decode_write(kind, &mut r)?,
        Kind::GrantAsk | Kind::Granted | Kind::Recall | Kind::Released => decode_grant(kind, &mut r)?,
        Kind::Read | Kind::ReadReply | Kind::ReadRefused | Kind::DigestAsk | Kind::Digests => {
            decode_read(kind, &mut r)?
        }
        Kind::RollForward
        | Kind::RollForwardAck
        | Kind::ReconcileDone
        | Kind::MapAsk
        | Kind::MapPart
        | Kind::Pull
        | Kind::Pulled
        | Kind::PulledDurable => decode_resync(kind, &mut r)?,
        Kind::Heartbeat | Kind::HeartbeatAnswer | Kind::Hello | Kind::ExitReport => decode_contact(kind, &mut r)?,
        Kind::Prepare
        | Kind::Promise
        | Kind::Accept
        | Kind::Accepted
        | Kind::NoVote
        | Kind::VoterAdmit
        | Kind::VoterAdmitted => decode_vote(kind, &mut r)?,
        Kind::Install
        | Kind::Installed
        | Kind::LeaveAsk
        | Kind::LeaveAnswer
        | Kind::Goodbye
        | Kind::GoodbyeSeen
        | Kind::AttachWanted => decode_view(kind, &mut r)?,
    };
    r.finish()?;
    Ok(message)
}

fn decode_write(kind: Kind, r: &mut Reader<'_>) -> Result<Message, DecodeValue> {
    Ok(match kind {
        Kind::Write => Message::Write {
            id: WriteId(r.u64()?),
            grant: take_grant(r)?,
            range: take_range(r)?,
            kind: take_write_kind(r)?,
            durable: r.bool("durable")?,
            floor: WriteId(r.u64()?),
            flush_floor: FlushId(r.u64()?),
        },
        Kind::WriteAck => Message::WriteAck { id: WriteId(r.u64()?) },
        Kind::WriteRefused => Message::WriteRefused { id: WriteId(r.u64()?), reason: take_refusal(r)? },
        Kind::Commit => Message::Commit { floor: WriteId(r.u64()?), flush_floor: FlushId(r.u64()?) },
        Kind::CommitWanted => Message::CommitWanted,
        Kind::Flush => Message::Flush { id: FlushId(r.u64()?), floor: WriteId(r.u64()?) },
        Kind::FlushAck => Message::FlushAck { id: FlushId(r.u64()?) },
        other => unreachable!("decode sends {other:?} elsewhere"),
    })
}

fn decode_grant(kind: Kind, r: &mut Reader<'_>) -> Result<Message, DecodeValue> {
    Ok(match kind {
        Kind::GrantAsk => {
            Message::GrantAsk { id: AskId(r.u64()?), range: take_range(r)?, class: take_class(r)?, waited: r.u64()? }
        }
        Kind::Granted => Message::Granted { id: AskId(r.u64()?), range: take_range(r)?, number: take_grant(r)? },
        Kind::Recall => {
            let (id, range, needed) = (RecallId(r.u64()?), take_range(r)?, take_range(r)?);
            if !range.contains(needed) {
                return Err(DecodeValue::OutOfBounds("what a recall needs"));
            }
            Message::Recall { id, range, needed, class: take_class(r)? }
        }
        Kind::Released => Message::Released { id: RecallId(r.u64()?), kept: r.list(RANGE_BYTES, take_range)? },
        other => unreachable!("decode sends {other:?} elsewhere"),
    })
}

fn decode_read(kind: Kind, r: &mut Reader<'_>) -> Result<Message, DecodeValue> {
    let id = ReadId(r.u64()?);
    Ok(match kind {
        Kind::Read => Message::Read { id, range: take_range(r)? },
        Kind::ReadReply => Message::ReadReply { id, range: take_range(r)? },
        Kind::ReadRefused => Message::ReadRefused { id, reason: take_refusal(r)? },
        Kind::DigestAsk => Message::DigestAsk { id, range: take_range(r)? },
        Kind::Digests => {
            let range = take_range(r)?;
            let digests = r.list(16, |r| r.array().map(Digest))?;
            if digests.len() as u64 != range.len() {
                return Err(DecodeValue::OutOfBounds("one digest per block"));
            }
            Message::Digests { id, range, digests }
        }
        other => unreachable!("decode sends {other:?} elsewhere"),
    })
}

fn decode_resync(kind: Kind, r: &mut Reader<'_>) -> Result<Message, DecodeValue> {
    Ok(match kind {
        Kind::RollForward => Message::RollForward {
            id: ReadId(r.u64()?),
            range: take_range(r)?,
            grant: take_grant(r)?,
            write: WriteId(r.u64()?),
        },
        Kind::RollForwardAck => Message::RollForwardAck { id: ReadId(r.u64()?) },
        Kind::ReconcileDone => Message::ReconcileDone,
        Kind::MapAsk => Message::MapAsk { round: Round(r.u64()?), from: r.u64()?, peer: NodeId(r.u32()?) },
        Kind::MapPart => Message::MapPart {
            round: Round(r.u64()?),
            peer: NodeId(r.u32()?),
            valid: r.bool("valid")?,
            since: Epoch(r.u64()?),
            chunks: r.list(CHUNKS_BYTES_MIN, take_chunks)?,
            next: if r.bool("next")? { Some(r.u64()?) } else { None },
            absent: r.list(4, |r| r.u32().map(NodeId))?,
        },
        Kind::Pull => Message::Pull { round: Round(r.u64()?), id: ReadId(r.u64()?), range: take_range(r)? },
        Kind::Pulled => Message::Pulled { round: Round(r.u64()?), id: ReadId(r.u64()?), range: take_range(r)? },
        Kind::PulledDurable => {
            Message::PulledDurable { round: Round(r.u64()?), ranges: r.list(RANGE_BYTES, take_range)? }
        }
        other => unreachable!("decode sends {other:?} elsewhere"),
    })
}

fn decode_contact(kind: Kind, r: &mut Reader<'_>) -> Result<Message, DecodeValue> {
    Ok(match kind {
        Kind::Heartbeat => Message::Heartbeat {
            incarnation: Incarnation(r.u64()?),
            sent_at: r.u64()?,
            session: SessionId(r.u64()?),
            generation: r.u64()?,
        },
        Kind::HeartbeatAnswer => Message::HeartbeatAnswer {
            incarnation: Incarnation(r.u64()?),
            sent_at: r.u64()?,
            permits: r.bool("permits")?,
        },
        Kind::Hello => Message::Hello {
            incarnation: Incarnation(r.u64()?),
            to: Incarnation(r.u64()?),
            boot: BootId(r.u64()?),
            session: SessionId(r.u64()?),
            answer: r.bool("answer")?,
            config: Box::new(take_config(r)?),
            left: r.list(LEFT_BYTES, take_left)?,
        },
        Kind::ExitReport => Message::ExitReport {
            node: NodeId(r.u32()?),
            incarnation: Incarnation(r.u64()?),
            restarting: r.bool("restarting")?,
        },
        other => unreachable!("decode sends {other:?} elsewhere"),
    })
}

fn decode_vote(kind: Kind, r: &mut Reader<'_>) -> Result<Message, DecodeValue> {
    Ok(match kind {
        Kind::Prepare => Message::Prepare { ballot: take_ballot(r)?, generation: r.u64()? },
        Kind::Promise => {
            Message::Promise { ballot: take_ballot(r)?, voter: VoterId(r.u64()?), accepted: take_accepted(r)? }
        }
        Kind::Accept => Message::Accept { ballot: take_ballot(r)?, config: Box::new(take_config(r)?) },
        Kind::Accepted => Message::Accepted { ballot: take_ballot(r)?, voter: VoterId(r.u64()?) },
        Kind::NoVote => {
            Message::NoVote { ballot: take_ballot(r)?, promised: take_ballot(r)?, has_memory: r.bool("memory")? }
        }
        Kind::VoterAdmit => Message::VoterAdmit { voter: VoterId(r.u64()?), config: Box::new(take_config(r)?) },
        Kind::VoterAdmitted => Message::VoterAdmitted { voter: VoterId(r.u64()?) },
        other => unreachable!("decode sends {other:?} elsewhere"),
    })
}

fn decode_view(kind: Kind, r: &mut Reader<'_>) -> Result<Message, DecodeValue> {
    Ok(match kind {
        Kind::Install => Message::Install { config: Box::new(take_config(r)?), left: r.list(LEFT_BYTES, take_left)? },
        Kind::Installed => Message::Installed {
            answered: r.list(12, |r| Ok((NodeId(r.u32()?), r.u64()?)))?,
            uncommitted: r.list(UNCOMMITTED_BYTES, take_uncommitted)?,
            suspect: r.list(RANGE_BYTES, take_range)?,
            grant: take_grant(r)?,
            holds: r.list(RANGE_BYTES, take_range)?,
        },
        Kind::LeaveAsk => Message::LeaveAsk,
        Kind::LeaveAnswer => Message::LeaveAnswer { stays: r.bool("stays")? },
        Kind::Goodbye => Message::Goodbye { incarnation: Incarnation(r.u64()?) },
        Kind::GoodbyeSeen => Message::GoodbyeSeen,
        Kind::AttachWanted => Message::AttachWanted,
        other => unreachable!("decode sends {other:?} elsewhere"),
    })
}

fn take_uncommitted(r: &mut Reader<'_>) -> Result<Uncommitted, DecodeValue> {
    Ok(Uncommitted {
        range: take_range(r)?,
        writer: NodeId(r.u32()?),
        incarnation: Incarnation(r.u64()?),
        grant: take_grant(r)?,
        id: WriteId(r.u64()?),
    })
}

fn take_write_kind(r: &mut Reader<'_>) -> Result<WriteKind, DecodeValue> {
    match r.u8()? {
        0 => Ok(WriteKind::Data),
        1 => Ok(WriteKind::Zeroes),
        2 => Ok(WriteKind::Discard),
        tag => Err(DecodeValue::UnknownTag { what: "kind of a write", tag }),
    }
}

fn take_refusal(r: &mut Reader<'_>) -> Result<Refusal, DecodeValue> {
    Ok(match r.u8()? {
        0 => Refusal::Stale,
        1 => Refusal::NotReplica,
        2 => Refusal::NotWriter,
        3 => Refusal::Grant,
        4 => Refusal::Overlap,
        5 => Refusal::OutOfRange,
        6 => Refusal::Disk,
        7 => Refusal::NoReadPermission,
        8 => Refusal::NoSpace,
        tag => return Err(DecodeValue::UnknownTag { what: "refusal", tag }),
    })
}
