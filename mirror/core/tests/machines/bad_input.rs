//! Members that say what they must not: it is refused or goes unheard, nothing acknowledged is overwritten, the volume goes on.

use lockstep_core::{
    AskId, BlockRange, Class, Epoch, FlushId, GrantNumber, IoError, Message, NodeId, Op, RecallId, Refusal, RequestId,
    WriteId, WriteKind,
};

use super::cluster::{A, B, BLOCKS, C, Cluster, EXTENT};

/// Ranges that are none: outside, across the end, empty, backwards in nothing, not of whole extents.
const ODD: [BlockRange; 5] = [
    BlockRange { start: BLOCKS, end: BLOCKS + EXTENT },
    BlockRange { start: BLOCKS - EXTENT, end: BLOCKS + EXTENT },
    BlockRange { start: 0, end: u64::MAX },
    BlockRange { start: EXTENT, end: EXTENT },
    BlockRange { start: 1, end: EXTENT - 1 },
];

fn extent(number: u64) -> BlockRange {
    BlockRange::new(number * EXTENT, (number + 1) * EXTENT)
}

fn grant(epoch: Epoch, counter: u64) -> GrantNumber {
    GrantNumber { epoch, counter }
}

fn is_recall(message: &Message) -> bool {
    matches!(message, Message::Recall { .. })
}

/// Three replicas; A grants, B has written and holds everything, C has asked for a block and hears nothing. Returns B's acknowledged
/// write, C's waiting one, and C's question.
fn asked() -> (Cluster, RequestId, RequestId, AskId) {
    let mut cluster = Cluster::start(3, &[A, B, C]);
    let acknowledged = cluster.write_now(B, 5);
    cluster.lose(|_, _, message| is_recall(message));
    let waiting = cluster.write(C, 5);
    cluster.run(10);
    let mut asks = cluster.sent.iter().filter_map(|(from, _, message)| match message {
        Message::GrantAsk { id, .. } if *from == C => Some(*id),
        _ => None,
    });
    let ask = asks.next_back().expect("C has asked");
    (cluster, acknowledged, waiting, ask)
}

/// The number under which B wrote.
fn number_of_b(cluster: &Cluster) -> GrantNumber {
    let grants = cluster.sent.iter().filter_map(|(_, to, message)| match message {
        Message::Granted { number, .. } if *to == B => Some(*number),
        _ => None,
    });
    grants.max().expect("B was granted something")
}

/// A recall that was lost is said again once a session opens.
fn goes_on(cluster: &mut Cluster, waiting: &[RequestId]) {
    cluster.lose_nothing();
    let recalls: Vec<_> = cluster.sent.iter().filter(|(_, _, message)| is_recall(message)).cloned().collect();
    for (from, to, message) in recalls {
        cluster.forge(from, to, message, None);
    }
    cluster.run(500);
    assert!(waiting.iter().all(|write| cluster.is_done(*write)), "somebody waits for ever");
    for (at, writer) in [A, B, C].into_iter().enumerate() {
        cluster.write_now(writer, 5);
        cluster.write_now(writer, (at as u64 + 9) * EXTENT);
    }
    cluster.run(1_000);
    assert_eq!(cluster.different(), []);
}

#[test]
fn grant_of_a_node_that_does_not_grant_is_not_heard() {
    let (mut cluster, _, waiting, ask) = asked();
    let number = grant(cluster.replica(C).config().epoch, 1_000);
    for range in [extent(0), BlockRange::new(0, BLOCKS)] {
        cluster.forge(B, C, Message::Granted { id: ask, range, number }, None);
    }
    assert!(cluster.held(C).is_empty() && !cluster.is_done(waiting));
    goes_on(&mut cluster, &[waiting]);
}

#[test]
fn grant_of_what_nobody_asked_for_is_not_heard() {
    let (mut cluster, acknowledged, waiting, ask) = asked();
    let number = grant(cluster.replica(C).config().epoch, 1_000);
    // Another question, another range, and what is no range.
    let others = [(AskId(ask.0 + 1), extent(0)), (ask, extent(3))];
    for (id, range) in others.into_iter().chain(ODD.map(|range| (ask, range))) {
        cluster.forge(A, C, Message::Granted { id, range, number }, None);
        assert!(cluster.held(C).is_empty(), "{range:?} was taken");
    }
    // Nobody who writes has asked at all.
    cluster.forge(A, B, Message::Granted { id: ask, range: extent(0), number }, None);
    assert!(!cluster.is_done(waiting));
    assert_eq!(cluster.contents(5), [acknowledged.0; 3]);
    goes_on(&mut cluster, &[waiting]);
}

#[test]
fn second_grant_of_an_extent_under_a_number_of_before_writes_nothing() {
    for below in [0, 1] {
        let (mut cluster, acknowledged, waiting, ask) = asked();
        let of_b = number_of_b(&cluster);
        let number = grant(of_b.epoch, of_b.counter - below);
        cluster.forge(A, C, Message::Granted { id: ask, range: extent(0), number }, None);
        cluster.run(100);
        assert_eq!(cluster.held(C), [extent(0)], "the liar is believed");
        let refusals = cluster.refused.iter().filter(|(_, from, why)| (*from, *why) == (C, Refusal::Grant));
        assert_eq!(refusals.count(), 2, "both other replicas refuse it by its number");
        assert!(!cluster.is_done(waiting));
        assert_eq!(cluster.contents(5)[..2], [acknowledged.0; 2]);
        // Its own disk has what nobody acknowledged, and the holder goes on meanwhile.
        let newer = cluster.write(B, 5);
        cluster.run(100);
        assert_eq!(cluster.contents(5)[..2], [newer.0; 2]);
        settles(&mut cluster, &[waiting, newer]);
    }
}

#[test]
fn second_grant_of_an_extent_under_a_higher_number_shuts_the_first_holder_out() {
    let (mut cluster, _, waiting, ask) = asked();
    let of_b = number_of_b(&cluster);
    let number = grant(of_b.epoch, of_b.counter + 100);
    cluster.forge(A, C, Message::Granted { id: ask, range: extent(0), number }, None);
    cluster.run(100);
    assert!(cluster.is_done(waiting), "the number is new to every replica");
    assert_eq!(cluster.contents(5), [waiting.0; 3]);
    let late = cluster.write(B, 5);
    cluster.run(100);
    assert!(!cluster.is_done(late));
    assert_eq!([cluster.contents(5)[0], cluster.contents(5)[2]], [waiting.0; 2], "nothing acknowledged is overwritten");
    assert!(cluster.refused.contains(&(A, B, Refusal::Grant)) && cluster.refused.contains(&(C, B, Refusal::Grant)));
    // Elsewhere both go on.
    cluster.write_now(B, 40 * EXTENT);
    cluster.write_now(C, 6);
    settles(&mut cluster, &[late]);
}

/// A write that is refused for ever costs its writer's replica, or that of who refuses it, its place; then all that was said about
/// grants is void, and the volume is whole again.
fn settles(cluster: &mut Cluster, open: &[RequestId]) {
    cluster.lose_nothing();
    cluster.run(60_000);
    for request in open {
        assert!(cluster.completed.contains_key(request), "{request:?} is never answered");
    }
    assert_eq!(cluster.replica(A).config().in_sync.len(), 3, "{:?}", cluster.replica(A).config());
    assert_eq!(cluster.different(), []);
}

#[test]
fn question_of_a_node_that_does_not_write_has_no_answer() {
    let mut cluster = Cluster::start(3, &[A, B]);
    let acknowledged = cluster.write_now(B, 5);
    let ask = Message::GrantAsk { id: AskId(1), range: extent(0), class: Class::Recovery, waited: u64::MAX };
    cluster.forge(C, A, ask, None);
    cluster.run(500);
    let answered = cluster.sent.iter().any(|(_, to, message)| *to == C && matches!(message, Message::Granted { .. }));
    assert!(!answered, "C was granted something");
    assert_eq!(cluster.held(B), [BlockRange::new(0, BLOCKS)], "B was asked to give something back");
    assert_eq!(cluster.contents(5), [acknowledged.0; 3]);
    cluster.write_now(A, 5);
    cluster.write_now(B, 5);
}

#[test]
fn question_about_what_is_no_range_has_no_answer() {
    let mut cluster = Cluster::start(3, &[A, B, C]);
    cluster.write_now(B, 5);
    let frames = cluster.policing_frames();
    // A range within an extent is widened to it, as a question of the whole extent would be.
    for (number, range) in (100..).zip(&ODD[..4]) {
        let ask = Message::GrantAsk { id: AskId(number), range: *range, class: Class::Recovery, waited: 0 };
        cluster.forge(C, A, ask, None);
    }
    cluster.run(500);
    assert_eq!(cluster.policing_frames(), frames, "{:?}", cluster.sent.last());
    assert_eq!(cluster.held(B), [BlockRange::new(0, BLOCKS)]);
    goes_on(&mut cluster, &[]);
}

#[test]
fn recall_of_a_node_that_does_not_grant_or_of_no_range_is_not_obeyed() {
    let mut cluster = Cluster::start(3, &[A, B, C]);
    let acknowledged = cluster.write_now(B, 5);
    let recall = |id, range, needed| Message::Recall { id: RecallId(id), range, needed, class: Class::Recovery };
    cluster.forge(C, B, recall(100, extent(0), extent(0)), None);
    for (id, range) in (200..).zip(ODD) {
        cluster.forge(A, B, recall(id, range, range), None);
    }
    cluster.forge(A, B, recall(300, extent(0), extent(1)), None);
    cluster.run(500);
    assert_eq!(cluster.held(B), [BlockRange::new(0, BLOCKS)]);
    let released =
        |(from, _, message): &(NodeId, NodeId, Message)| *from == B && matches!(message, Message::Released { .. });
    assert!(!cluster.sent.iter().any(released));
    assert_eq!(cluster.contents(5), [acknowledged.0; 3]);
    goes_on(&mut cluster, &[]);
}

#[test]
fn release_by_a_node_that_was_not_asked_frees_nothing() {
    let (mut cluster, acknowledged, waiting, _) = asked();
    let recall = cluster.sent.iter().find_map(|(_, to, message)| match message {
        Message::Recall { id, .. } if *to == B => Some(*id),
        _ => None,
    });
    let id = recall.expect("B was asked");
    cluster.forge(C, A, Message::Released { id, kept: Vec::new() }, None);
    cluster.forge(B, A, Message::Released { id: RecallId(id.0 + 7), kept: Vec::new() }, None);
    cluster.run(100);
    assert!(!cluster.is_done(waiting) && cluster.held(C).is_empty());
    assert_eq!(cluster.contents(5), [acknowledged.0; 3]);
    goes_on(&mut cluster, &[waiting]);
}

#[test]
fn release_that_keeps_what_is_needed_or_no_range_keeps_nothing_of_it() {
    let (mut cluster, _, waiting, _) = asked();
    cluster.lose(|from, _, message| from == B && matches!(message, Message::Released { .. }));
    let recalls: Vec<_> = cluster.sent.iter().filter(|(_, _, message)| is_recall(message)).cloned().collect();
    for (from, to, message) in recalls {
        cluster.forge(from, to, message, None);
    }
    cluster.run(100);
    let released = cluster.sent.iter().find_map(|(from, _, message)| match message {
        Message::Released { id, .. } if *from == B => Some(*id),
        _ => None,
    });
    let id = released.expect("B obeys");
    let kept = ODD.into_iter().chain([extent(0), BlockRange::new(0, BLOCKS)]).collect();
    cluster.forge(B, A, Message::Released { id, kept }, None);
    cluster.run(100);
    assert!(cluster.is_done(waiting), "what was needed is free");
    goes_on(&mut cluster, &[waiting]);
}

#[test]
fn write_that_its_sender_may_not_do_is_refused_by_each_replica() {
    let mut cluster = Cluster::start(3, &[A, B]);
    let acknowledged = cluster.write_now(B, 5);
    let of_b = number_of_b(&cluster);
    let higher = grant(of_b.epoch, of_b.counter + 1);
    let write = |grant, range| Message::Write {
        id: WriteId(1_000),
        grant,
        range,
        kind: WriteKind::Data,
        durable: false,
        floor: WriteId(0),
        flush_floor: FlushId(0),
    };
    let block = BlockRange::new(5, 6);
    for (from, to, grant, range, why) in [
        // Under B's own number; by somebody who writes nothing; nowhere.
        (A, B, of_b, block, Refusal::Grant),
        (A, C, of_b, block, Refusal::Grant),
        (C, A, higher, block, Refusal::NotWriter),
        (C, B, higher, block, Refusal::NotWriter),
        (B, A, higher, BlockRange::new(BLOCKS, BLOCKS + 1), Refusal::OutOfRange),
        (B, A, higher, BlockRange::new(BLOCKS - 1, u64::MAX), Refusal::OutOfRange),
        (B, A, higher, BlockRange::new(5, 5), Refusal::OutOfRange),
    ] {
        let before = cluster.refused.len();
        cluster.forge(from, to, write(grant, range), Some(vec![7; 1]));
        assert_eq!(cluster.refused[before..], [(to, from, why)], "{range:?} of {from} at {to}");
    }
    assert_eq!(cluster.contents(5), [acknowledged.0; 3]);
    cluster.write_now(A, 5);
    cluster.write_now(B, 5);
    assert_eq!(cluster.different(), []);
}

#[test]
fn request_outside_the_volume_fails_and_asks_for_nothing() {
    let mut cluster = Cluster::start(2, &[A, B]);
    cluster.write_now(A, 5);
    let frames = cluster.policing_frames();
    let outside = [
        BlockRange::new(BLOCKS, BLOCKS + 1),
        BlockRange::new(BLOCKS - 1, BLOCKS + 1),
        BlockRange::new(u64::MAX - 1, u64::MAX),
        BlockRange::new(7, 7),
    ];
    let all =
        [Op::Read, Op::Write { fua: false }, Op::Write { fua: true }, Op::WriteZeroes { fua: false }, Op::Discard];
    for (node, op) in [A, B].into_iter().flat_map(|node| all.map(|op| (node, op))) {
        for range in outside {
            let request = cluster.ask(node, op, range);
            assert_eq!(cluster.completed.get(&request), Some(&Err(IoError::OutOfRange)), "{op:?} {range:?} at {node}");
        }
    }
    assert_eq!(cluster.policing_frames(), frames);
    cluster.write_now(B, BLOCKS - 1);
    assert_eq!(cluster.different(), []);
}
