//! What strangers and damaged peers meet.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::cluster::{Cluster, PATIENCE, await_state};
use lockstep_engine::core::{
    BlockRange, FlushId, Frame, GrantNumber, Message, Net, NodeId, Stamp, VolumeId, WriteId, WriteKind,
};
use lockstep_engine::{ExitReport, LearnNodes, NodeAddress, report_exit};
use lockstep_format::wire::greeting::{Call, ClusterKey, Dialer, Dialing, Ends, Greet, Purpose, Refused};
use lockstep_format::wire::{PayloadHead, encode_frame};

fn metric(cluster: &Cluster, id: u32, name: &str) -> u64 {
    let text = cluster.engines[&id].metrics_text();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn await_metric(cluster: &Cluster, id: u32, name: &str, at_least: u64) {
    let seen = || (metric(cluster, id, name) >= at_least).then_some(());
    await_state(seen).unwrap_or_else(|| panic!("{name} stays below {at_least}"));
}

fn connect(cluster: &Cluster, to: u32) -> TcpStream {
    let stream = TcpStream::connect(cluster.nodes[to as usize - 1].ordinary).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Waits until the other end closes.
fn await_close(stream: &mut TcpStream) {
    // A reset is a close as well.
    let _ = stream.read_to_end(&mut Vec::new());
}

fn greet(cluster: &Cluster, secret: &[u8], (from, to): (u32, u32), volume: [u8; 16]) -> Result<TcpStream, Greet> {
    let mut stream = connect(cluster, to);
    let ends = Ends { from: NodeId(from), to: NodeId(to) };
    let call = Call { purpose: Purpose::Volume(VolumeId(volume)), net: Net::Ordinary, ends };
    let mut out = Vec::new();
    let mut dialer = Dialer::dial(ClusterKey::derive(secret), &call, &[9; 32], &mut out);
    loop {
        stream.write_all(&out).unwrap();
        out.clear();
        let mut input = [0; 1];
        stream.read_exact(&mut input).unwrap();
        if let Dialing::Greeted(_) = dialer.receive(&mut &input[..], &mut out)? {
            return Ok(stream);
        }
    }
}

const SECRET: &[u8] = b"a secret of the tests";

#[test]
fn strangers_are_refused_and_counted() {
    let cluster = Cluster::start("strangers");
    cluster.create("v", 1024);
    let mut stream = connect(&cluster, 2);
    stream.write_all(&[b'x'; 200]).unwrap();
    await_close(&mut stream);
    await_metric(&cluster, 2, "lockstep_connections_hostile_total", 1);
    // Another key: the dialer finds out, because the acceptor's proof comes first.
    assert_eq!(greet(&cluster, b"guessed", (1, 2), [7; 16]).unwrap_err(), Greet::BadProof);
    assert_eq!(greet(&cluster, SECRET, (1, 2), [8; 16]).unwrap_err(), Greet::RefusedThere(Refused::UnknownVolume));
    assert_eq!(greet(&cluster, SECRET, (9, 2), [7; 16]).unwrap_err(), Greet::RefusedThere(Refused::UnknownNode));
    // A program of another time: told why at once, before anything is proven or believed.
    let mut stream = connect(&cluster, 2);
    let mut call = [0; 76];
    call[..6].copy_from_slice(b"LKSG\xf0\xff");
    stream.write_all(&call).unwrap();
    let mut challenge = [0; 72];
    stream.read_exact(&mut challenge).unwrap();
    assert_eq!((&challenge[..4], challenge[5]), (&b"LKSC"[..], 1));
    await_close(&mut stream);
    await_metric(&cluster, 2, "lockstep_connections_hostile_total", 2);
    cluster.attach(1, "v", false).unwrap();
    cluster.write(1, "v", 5, 5);
}

#[test]
fn a_greeted_peer_that_sends_no_frames_is_cut_off() {
    let cluster = Cluster::start("garbage");
    cluster.create("v", 1024);
    cluster.attach(1, "v", false).unwrap();
    let oversized = {
        // A head whose checksum is right and whose claim is not: nothing may be allocated for it.
        let mut bytes = Vec::new();
        let frame = Frame { stamp: Stamp::default(), message: Message::CommitWanted };
        encode_frame(&frame, PayloadHead::NONE, &mut bytes).unwrap();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let crc = lockstep_format::crc32c(&bytes[..44]);
        bytes[44..48].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    for (number, bytes) in [vec![0; 48], oversized].into_iter().enumerate() {
        let mut stream = greet(&cluster, SECRET, (3, 2), [7; 16]).unwrap();
        stream.write_all(&bytes).unwrap();
        await_close(&mut stream);
        await_metric(&cluster, 2, "lockstep_connections_hostile_total", number as u64 + 1);
    }
    // One that ends within a frame is a connection that ended, no more.
    let mut frame = Vec::new();
    let commit_wanted = Frame { stamp: Stamp::default(), message: Message::CommitWanted };
    encode_frame(&commit_wanted, PayloadHead::NONE, &mut frame).unwrap();
    let mut stream = greet(&cluster, SECRET, (3, 2), [7; 16]).unwrap();
    stream.write_all(&frame[..20]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    await_close(&mut stream);
    assert_eq!(metric(&cluster, 2, "lockstep_connections_hostile_total"), 2);
    cluster.write(1, "v", 5, 5);
    assert_eq!(cluster.read(1, "v", BlockRange::new(5, 6)), [5; 4096]);
}

#[test]
fn a_payload_that_was_damaged_on_the_way_never_reaches_the_disk() {
    let cluster = Cluster::start("damaged");
    cluster.create("v", 1024);
    let mut stream = greet(&cluster, SECRET, (3, 2), [7; 16]).unwrap();
    let message = Message::Write {
        id: WriteId(1),
        grant: GrantNumber::default(),
        range: BlockRange::new(3, 4),
        kind: WriteKind::Data,
        durable: false,
        floor: WriteId(0),
        flush_floor: FlushId(0),
    };
    let mut bytes = Vec::new();
    let payload = vec![6; 4096];
    encode_frame(&Frame { stamp: Stamp::default(), message }, PayloadHead::of(&payload), &mut bytes).unwrap();
    bytes.extend_from_slice(&payload);
    *bytes.last_mut().unwrap() ^= 1;
    stream.write_all(&bytes).unwrap();
    await_close(&mut stream);
    await_metric(&cluster, 2, "lockstep_payloads_damaged_total", 1);
    assert!(cluster.data(2, "v").iter().all(|byte| *byte == 0));
}

#[test]
fn a_supervisors_report_reaches_every_volume_of_the_other_nodes() {
    let mut cluster = Cluster::start("report");
    cluster.create("v", 1024);
    cluster.attach(1, "v", false).unwrap();
    let incarnation = cluster.engines[&2].identity().incarnation;
    cluster.crash_node(2);
    let report = ExitReport { node: NodeId(2), incarnation, restarting: false };
    let sent = report_exit(report, SECRET, &cluster.nodes, Duration::from_secs(5));
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|(_, _, result)| result.is_ok()), "{sent:?}");
    for id in [1, 3] {
        await_metric(&cluster, id, "lockstep_exit_reports_total", 2);
    }
    cluster.write(1, "v", 9, 9);
    assert_eq!(cluster.status(1, "v").core.config.in_sync.len(), 1);
    // With another key nobody listens.
    let refused = report_exit(report, b"guessed", &cluster.nodes, Duration::from_secs(5));
    assert!(refused.iter().all(|(_, _, result)| result.is_err()));
}

#[test]
fn a_peer_that_moves_is_followed_while_the_volume_serves() {
    let mut cluster = Cluster::start("moves");
    cluster.create("v", 1024);
    cluster.attach(1, "v", false).unwrap();
    cluster.write(1, "v", 1, 1);
    cluster.crash_node(2);
    cluster.move_node(2);
    cluster.start_node(2);
    // Node 1 is the one that dials, and dials where node 2 was; node 3 too.
    cluster.write(1, "v", 2, 2);
    assert_eq!(cluster.status(1, "v").core.config.in_sync.len(), 1);
    for id in [1, 3] {
        cluster.engines[&id].learn_nodes(&cluster.nodes[1..2], &BTreeSet::new()).unwrap();
    }
    cluster.await_status(1, "v", |status| status.core.config.in_sync.len() == 2);
    cluster.write(1, "v", 3, 3);
    assert_eq!(cluster.data(2, "v")[3 * 4096], 3);
}

#[test]
fn nodes_come_and_go_and_those_in_use_stay() {
    let cluster = Cluster::start("come-and-go");
    cluster.create("v", 1024);
    let engine = &cluster.engines[&1];
    let fourth =
        NodeAddress { id: NodeId(4), name: "n4".to_owned(), ordinary: "127.0.0.1:9".parse().unwrap(), dedicated: None };
    let refused = greet(&cluster, SECRET, (4, 1), [7; 16]).unwrap_err();
    assert_eq!(refused, Greet::RefusedThere(Refused::UnknownNode));
    engine.learn_nodes(&[fourth], &BTreeSet::new()).unwrap();
    greet(&cluster, SECRET, (4, 1), [7; 16]).expect("it is known now");
    engine.learn_nodes(&[], &BTreeSet::from([NodeId(4)])).unwrap();
    let refused = greet(&cluster, SECRET, (4, 1), [7; 16]).unwrap_err();
    assert_eq!(refused, Greet::RefusedThere(Refused::UnknownNode));
    for (node, why) in [(3, LearnNodes::InUse { node: NodeId(3), volume: "v".to_owned() }), (1, LearnNodes::OwnAddress)]
    {
        assert_eq!(engine.learn_nodes(&[], &BTreeSet::from([NodeId(node)])), Err(why));
    }
    let mut own = cluster.nodes[0].clone();
    own.ordinary.set_port(own.ordinary.port() ^ 1);
    assert_eq!(engine.learn_nodes(&[own], &BTreeSet::new()), Err(LearnNodes::OwnAddress));
}
