//! Every message.

use lockstep_core::{
    AskId, BlockRange, BootId, Config, Digest, FlushId, Frame, Message, ReadId, RecallId, Refusal, Round, SessionId,
    VoterId, WriteId, WriteKind,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{
    accepted, ballot, chunk, chunk_number, class, config, epoch, grant, incarnation, left_marks, node, range, stamp,
    uncommitted,
};

/// Longest range whose content a message carries or asks for: the longest payload.
const BLOCKS_MAX: u64 = crate::wire::PAYLOAD_BYTES_MAX as u64 / lockstep_core::range::BLOCK_BYTES;

/// Any frame; its payload is what [`crate::wire::frame::payload_bytes`] says.
pub fn frame() -> impl Strategy<Value = Frame> {
    (stamp(), message()).prop_map(|(stamp, message)| Frame { stamp, message })
}

/// Any message.
pub fn message() -> impl Strategy<Value = Message> {
    prop_oneof![7 => writes(), 4 => grants(), 5 => reads(), 8 => resync(), 4 => contact(), 7 => votes(), 6 => views()]
}

fn write_id() -> impl Strategy<Value = WriteId> {
    any::<u64>().prop_map(WriteId)
}

fn flush_id() -> impl Strategy<Value = FlushId> {
    any::<u64>().prop_map(FlushId)
}

fn read_id() -> impl Strategy<Value = ReadId> {
    any::<u64>().prop_map(ReadId)
}

fn round() -> impl Strategy<Value = Round> {
    any::<u64>().prop_map(Round)
}

fn boxed_config() -> impl Strategy<Value = Box<Config>> {
    config().prop_map(Box::new)
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::Stale),
        Just(Refusal::NotReplica),
        Just(Refusal::NotWriter),
        Just(Refusal::Grant),
        Just(Refusal::Overlap),
        Just(Refusal::OutOfRange),
        Just(Refusal::Disk),
        Just(Refusal::NoReadPermission),
        Just(Refusal::NoSpace),
    ]
}

fn writes() -> impl Strategy<Value = Message> {
    let kind = prop_oneof![Just(WriteKind::Data), Just(WriteKind::Zeroes), Just(WriteKind::Discard)];
    prop_oneof![
        (write_id(), grant(), range(BLOCKS_MAX), kind, any::<bool>(), write_id(), flush_id()).prop_map(
            |(id, grant, range, kind, durable, floor, flush_floor)| Message::Write {
                id,
                grant,
                range,
                kind,
                durable,
                floor,
                flush_floor
            }
        ),
        write_id().prop_map(|id| Message::WriteAck { id }),
        (write_id(), refusal()).prop_map(|(id, reason)| Message::WriteRefused { id, reason }),
        (write_id(), flush_id()).prop_map(|(floor, flush_floor)| Message::Commit { floor, flush_floor }),
        Just(Message::CommitWanted),
        (flush_id(), write_id()).prop_map(|(id, floor)| Message::Flush { id, floor }),
        flush_id().prop_map(|id| Message::FlushAck { id }),
    ]
}

fn grants() -> impl Strategy<Value = Message> {
    let ask = || any::<u64>().prop_map(AskId);
    let recall = || any::<u64>().prop_map(RecallId);
    let recalled = range(1 << 30).prop_flat_map(|range| {
        (Just(range), range.start..range.end).prop_flat_map(|(range, from)| {
            (Just(range), (from + 1)..=range.end).prop_map(move |(range, to)| (range, BlockRange::new(from, to)))
        })
    });
    prop_oneof![
        (ask(), range(1 << 30), class(), any::<u64>()).prop_map(|(id, range, class, waited)| Message::GrantAsk {
            id,
            range,
            class,
            waited
        }),
        (ask(), range(1 << 30), grant()).prop_map(|(id, range, number)| Message::Granted { id, range, number }),
        (recall(), recalled, class()).prop_map(|(id, (range, needed), class)| Message::Recall {
            id,
            range,
            needed,
            class
        }),
        (recall(), vec(range(1 << 30), 0..6)).prop_map(|(id, kept)| Message::Released { id, kept }),
    ]
}

fn reads() -> impl Strategy<Value = Message> {
    let digests = range(20).prop_flat_map(|range| {
        let count = usize::try_from(range.len()).expect("at most 20");
        (Just(range), vec(any::<[u8; 16]>().prop_map(Digest), count))
    });
    prop_oneof![
        (read_id(), range(BLOCKS_MAX)).prop_map(|(id, range)| Message::Read { id, range }),
        (read_id(), range(BLOCKS_MAX)).prop_map(|(id, range)| Message::ReadReply { id, range }),
        (read_id(), refusal()).prop_map(|(id, reason)| Message::ReadRefused { id, reason }),
        (read_id(), range(BLOCKS_MAX)).prop_map(|(id, range)| Message::DigestAsk { id, range }),
        (read_id(), digests).prop_map(|(id, (range, digests))| Message::Digests { id, range, digests }),
    ]
}

fn resync() -> impl Strategy<Value = Message> {
    let part = (round(), node(), any::<bool>(), epoch(), vec((chunk_number(), chunk(), chunk()), 0..6));
    prop_oneof![
        (read_id(), range(BLOCKS_MAX), grant(), write_id())
            .prop_map(|(id, range, grant, write)| Message::RollForward { id, range, grant, write }),
        read_id().prop_map(|id| Message::RollForwardAck { id }),
        Just(Message::ReconcileDone),
        (round(), any::<u64>(), node()).prop_map(|(round, from, peer)| Message::MapAsk { round, from, peer }),
        (part, option::of(any::<u64>()), vec(node(), 0..4)).prop_map(
            |((round, peer, valid, since, chunks), next, absent)| Message::MapPart {
                round,
                peer,
                valid,
                since,
                chunks,
                next,
                absent
            }
        ),
        (round(), read_id(), range(BLOCKS_MAX)).prop_map(|(round, id, range)| Message::Pull { round, id, range }),
        (round(), read_id(), range(BLOCKS_MAX)).prop_map(|(round, id, range)| Message::Pulled { round, id, range }),
        (round(), vec(range(1 << 30), 0..9)).prop_map(|(round, ranges)| Message::PulledDurable { round, ranges }),
    ]
}

fn contact() -> impl Strategy<Value = Message> {
    let hello = (incarnation(), incarnation(), any::<u64>(), any::<u64>(), any::<bool>(), boxed_config(), left_marks());
    prop_oneof![
        (incarnation(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(incarnation, sent_at, session, generation)| Message::Heartbeat {
                incarnation,
                sent_at,
                session: SessionId(session),
                generation
            }
        ),
        (incarnation(), any::<u64>(), any::<bool>())
            .prop_map(|(incarnation, sent_at, permits)| Message::HeartbeatAnswer { incarnation, sent_at, permits }),
        hello.prop_map(|(incarnation, to, boot, session, answer, config, left)| Message::Hello {
            incarnation,
            to,
            boot: BootId(boot),
            session: SessionId(session),
            answer,
            config,
            left
        }),
        (node(), incarnation(), any::<bool>()).prop_map(|(node, incarnation, restarting)| Message::ExitReport {
            node,
            incarnation,
            restarting
        }),
    ]
}

fn votes() -> impl Strategy<Value = Message> {
    let voter = || any::<u64>().prop_map(VoterId);
    prop_oneof![
        (ballot(), any::<u64>()).prop_map(|(ballot, generation)| Message::Prepare { ballot, generation }),
        (ballot(), voter(), accepted()).prop_map(|(ballot, voter, accepted)| Message::Promise {
            ballot,
            voter,
            accepted
        }),
        (ballot(), boxed_config()).prop_map(|(ballot, config)| Message::Accept { ballot, config }),
        (ballot(), voter()).prop_map(|(ballot, voter)| Message::Accepted { ballot, voter }),
        (ballot(), ballot(), any::<bool>()).prop_map(|(ballot, promised, has_memory)| Message::NoVote {
            ballot,
            promised,
            has_memory
        }),
        (voter(), boxed_config()).prop_map(|(voter, config)| Message::VoterAdmit { voter, config }),
        voter().prop_map(|voter| Message::VoterAdmitted { voter }),
    ]
}

fn views() -> impl Strategy<Value = Message> {
    let ranges = || vec(range(1 << 30), 0..6);
    let report = (vec((node(), any::<u64>()), 0..4), vec(uncommitted(), 0..6), ranges(), grant(), ranges());
    prop_oneof![
        (boxed_config(), left_marks()).prop_map(|(config, left)| Message::Install { config, left }),
        report.prop_map(|(answered, uncommitted, suspect, grant, holds)| Message::Installed {
            answered,
            uncommitted,
            suspect,
            grant,
            holds
        }),
        Just(Message::LeaveAsk),
        any::<bool>().prop_map(|stays| Message::LeaveAnswer { stays }),
        incarnation().prop_map(|incarnation| Message::Goodbye { incarnation }),
        Just(Message::GoodbyeSeen),
        Just(Message::AttachWanted),
    ]
}
