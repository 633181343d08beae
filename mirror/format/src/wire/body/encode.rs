//! From messages to bodies.

use lockstep_core::bitmap::Chunk;
use lockstep_core::message::Uncommitted;
use lockstep_core::{BlockRange, Config, Epoch, Incarnation, Message, NodeId, Refusal, Round, WriteKind};

use crate::bytes::{Layout, Writer};
use crate::values::{put_accepted, put_ballot, put_chunks, put_config, put_grant, put_left, put_range};

/// Appends the body of `message`.
pub(in crate::wire) fn encode(message: &Message, layout: Layout, out: &mut Vec<u8>) {
    let w = &mut Writer::new(out).laid_out(layout);
    match message {
        Message::Write { id, grant, range, kind, durable, floor, flush_floor } => {
            w.u64(id.0);
            put_grant(w, *grant);
            put_range(w, *range);
            w.u8(write_kind(*kind));
            w.bool(*durable);
            w.u64(floor.0);
            w.u64(flush_floor.0);
        }
        Message::WriteAck { id } => w.u64(id.0),
        Message::WriteRefused { id, reason } => {
            w.u64(id.0);
            w.u8(refusal(*reason));
        }
        Message::Commit { floor, flush_floor } => {
            w.u64(floor.0);
            w.u64(flush_floor.0);
        }
        Message::Flush { id, floor } => {
            w.u64(id.0);
            w.u64(floor.0);
        }
        Message::FlushAck { id } => w.u64(id.0),
        Message::CommitWanted
        | Message::ReconcileDone
        | Message::LeaveAsk
        | Message::GoodbyeSeen
        | Message::AttachWanted => {}
        Message::Read { id, range } | Message::ReadReply { id, range } | Message::DigestAsk { id, range } => {
            w.u64(id.0);
            put_range(w, *range);
        }
        Message::ReadRefused { id, reason } => {
            w.u64(id.0);
            w.u8(refusal(*reason));
        }
        Message::Digests { id, range, digests } => {
            w.u64(id.0);
            put_range(w, *range);
            w.list(digests, |w, digest| w.raw(&digest.0));
        }
        Message::RollForward { id, range, grant, write } => {
            w.u64(id.0);
            put_range(w, *range);
            put_grant(w, *grant);
            w.u64(write.0);
        }
        Message::RollForwardAck { id } => w.u64(id.0),
        Message::Pull { round, id, range } | Message::Pulled { round, id, range } => {
            w.u64(round.0);
            w.u64(id.0);
            put_range(w, *range);
        }
        Message::PulledDurable { round, ranges } => {
            w.u64(round.0);
            w.list(ranges, |w, range| put_range(w, *range));
        }
        Message::MapAsk { round, from, peer } => {
            w.u64(round.0);
            w.u64(*from);
            w.u32(peer.0);
        }
        Message::MapPart { round, peer, valid, since, chunks, next, absent } => {
            map_part(w, (*round, *peer, *valid, *since), chunks, *next, absent);
        }
        Message::Installed { answered, uncommitted, suspect, grant, holds } => {
            installed(w, answered, uncommitted, suspect);
            put_grant(w, *grant);
            w.list(holds, |w, range| put_range(w, *range));
        }
        Message::GrantAsk { id, range, class, waited } => {
            w.u64(id.0);
            put_range(w, *range);
            w.u8(*class as u8);
            w.u64(*waited);
        }
        Message::Granted { id, range, number } => {
            w.u64(id.0);
            put_range(w, *range);
            put_grant(w, *number);
        }
        Message::Recall { id, range, needed, class } => {
            w.u64(id.0);
            put_range(w, *range);
            put_range(w, *needed);
            w.u8(*class as u8);
        }
        Message::Released { id, kept } => {
            w.u64(id.0);
            w.list(kept, |w, range| put_range(w, *range));
        }
        Message::Install { config, left } => install(w, config, left),
        Message::LeaveAnswer { stays } => w.bool(*stays),
        Message::Goodbye { incarnation } => w.u64(incarnation.0),
        other => encode_sessionless(other, w),
    }
}

fn encode_sessionless(message: &Message, w: &mut Writer<'_>) {
    match message {
        Message::Heartbeat { incarnation, sent_at, session, generation } => {
            w.u64(incarnation.0);
            w.u64(*sent_at);
            w.u64(session.0);
            w.u64(*generation);
        }
        Message::HeartbeatAnswer { incarnation, sent_at, permits } => {
            w.u64(incarnation.0);
            w.u64(*sent_at);
            w.bool(*permits);
        }
        Message::Hello { incarnation, to, boot, session, answer, config, left } => {
            w.u64(incarnation.0);
            w.u64(to.0);
            w.u64(boot.0);
            w.u64(session.0);
            w.bool(*answer);
            install(w, config, left);
        }
        Message::ExitReport { node, incarnation, restarting } => {
            w.u32(node.0);
            w.u64(incarnation.0);
            w.bool(*restarting);
        }
        Message::Prepare { ballot, generation } => {
            put_ballot(w, *ballot);
            w.u64(*generation);
        }
        Message::Promise { ballot, voter, accepted } => {
            put_ballot(w, *ballot);
            w.u64(voter.0);
            put_accepted(w, accepted.as_ref());
        }
        Message::Accept { ballot, config } => {
            put_ballot(w, *ballot);
            put_config(w, config);
        }
        Message::Accepted { ballot, voter } => {
            put_ballot(w, *ballot);
            w.u64(voter.0);
        }
        Message::NoVote { ballot, promised, has_memory } => {
            put_ballot(w, *ballot);
            put_ballot(w, *promised);
            w.bool(*has_memory);
        }
        Message::VoterAdmit { voter, config } => {
            w.u64(voter.0);
            put_config(w, config);
        }
        Message::VoterAdmitted { voter } => w.u64(voter.0),
        of_a_session => unreachable!("{of_a_session:?} has its arm in encode"),
    }
}

fn install(w: &mut Writer<'_>, config: &Config, left: &[(NodeId, Incarnation)]) {
    put_config(w, config);
    w.list(left, |w, mark| put_left(w, *mark));
}

fn installed(w: &mut Writer<'_>, answered: &[(NodeId, u64)], uncommitted: &[Uncommitted], suspect: &[BlockRange]) {
    w.list(answered, |w, (node, nanos)| {
        w.u32(node.0);
        w.u64(*nanos);
    });
    w.list(uncommitted, |w, write| {
        put_range(w, write.range);
        w.u32(write.writer.0);
        w.u64(write.incarnation.0);
        put_grant(w, write.grant);
        w.u64(write.id.0);
    });
    w.list(suspect, |w, range| put_range(w, *range));
}

fn map_part(
    w: &mut Writer<'_>,
    (round, peer, valid, since): (Round, NodeId, bool, Epoch),
    chunks: &[(u64, Chunk, Chunk)],
    next: Option<u64>,
    absent: &[NodeId],
) {
    w.u64(round.0);
    w.u32(peer.0);
    w.bool(valid);
    w.u64(since.0);
    w.list(chunks, |w, (number, copy, compare)| put_chunks(w, *number, copy, compare));
    w.bool(next.is_some());
    if let Some(block) = next {
        w.u64(block);
    }
    w.list(absent, |w, node| w.u32(node.0));
}

fn write_kind(kind: WriteKind) -> u8 {
    match kind {
        WriteKind::Data => 0,
        WriteKind::Zeroes => 1,
        WriteKind::Discard => 2,
    }
}

fn refusal(reason: Refusal) -> u8 {
    match reason {
        Refusal::Stale => 0,
        Refusal::NotReplica => 1,
        Refusal::NotWriter => 2,
        Refusal::Grant => 3,
        Refusal::Overlap => 4,
        Refusal::OutOfRange => 5,
        Refusal::Disk => 6,
        Refusal::NoReadPermission => 7,
        Refusal::NoSpace => 8,
    }
}
