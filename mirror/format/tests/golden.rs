//! The bytes of every message and of every file of metadata, as they were when their version was made. A change of the
//! format that nobody meant shows here; one that is meant is a new version, with a file of its own, and the old file
//! stays: what an older program wrote must be read for ever.
//!
//! `LOCKSTEP_BLESS=1 cargo test -p lockstep-format --test golden` writes the file of the newest version. That is right
//! only as long as no program that writes this version has been released.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use lockstep_core::message::Uncommitted;
use lockstep_core::{
    Access, Ack, Arbiter, AskId, AttachMode, Attachment, Ballot, BlockRange, BootId, Class, Config, Digest, DirtyMap,
    Epoch, FlushId, Frame, Generation, GrantNumber, Incarnation, Joining, Message, Meta, MetaUpdate, Net, NodeId,
    OnQuorumLoss, Policing, ReadId, RecallId, Refusal, RegionIndex, RequestTag, Round, SessionId, Settings, Stamp,
    VolumeId, VoterId, VoterState, WriteId, WriteKind,
};
use lockstep_format::disk::{self, Journal, Owner, Superblock};
use lockstep_format::wire::frame::payload_bytes;
use lockstep_format::wire::greeting::{Acceptor, Call, ClusterKey, Dialer, Ends, Purpose};
use lockstep_format::wire::{Decoded, Kind, PayloadHead, decode_frame, encode_frame};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const VOLUME: VolumeId = VolumeId([0xab; 16]);

fn config() -> Config {
    Config {
        volume: VOLUME,
        generation: Generation { id: 0x1111, parent: 0x2222 },
        epoch: Epoch(7),
        size_blocks: 262_144,
        settings: Settings {
            ack: Ack::Durable,
            on_quorum_loss: OnQuorumLoss::Error,
            access: Access::SingleWriter,
            arbiter: Arbiter::Peers,
            extent_blocks: 256,
            policing: Policing::Peer,
        },
        priority: Class::Normal,
        replicas: BTreeSet::from([A, B]),
        added: BTreeMap::new(),
        tie_breaker: Some(C),
        voters: BTreeMap::from([(A, VoterId(11)), (B, VoterId(12)), (C, VoterId(13))]),
        in_sync: BTreeMap::from([(A, Incarnation(101))]),
        joining: BTreeMap::from([(B, Joining { incarnation: Incarnation(102), source: A })]),
        attached: BTreeMap::from([
            (
                A,
                Attachment {
                    incarnation: Incarnation(101),
                    mode: AttachMode::ReadWrite,
                    recoverable: true,
                    since: Epoch(5),
                    class: Some(Class::High),
                },
            ),
            (
                C,
                Attachment {
                    incarnation: Incarnation(103),
                    mode: AttachMode::ReadOnly,
                    recoverable: false,
                    since: Epoch(6),
                    class: None,
                },
            ),
        ]),
        last_in_sync: BTreeMap::from([(B, Epoch(5))]),
        requests: BTreeMap::from([(A, RequestTag { incarnation: Incarnation(101), number: 4 })]),
    }
}

fn boxed() -> Box<Config> {
    Box::new(config())
}

/// A configuration of a volume to which a replica was added.
fn changed() -> Box<Config> {
    Box::new(Config { added: BTreeMap::from([(B, Epoch(6))]), ..config() })
}

/// One of each kind that says what version 1 could not.
fn messages_of_version_2() -> Vec<Message> {
    let (incarnation, session) = (Incarnation(101), SessionId(9));
    vec![
        Message::Hello {
            incarnation,
            to: Incarnation(102),
            boot: BootId(77),
            session,
            answer: false,
            config: changed(),
            left: vec![],
        },
        Message::Promise { ballot: ballot(3), voter: VoterId(12), accepted: Some((ballot(2), changed())) },
        Message::Accept { ballot: ballot(3), config: changed() },
        Message::VoterAdmit { voter: VoterId(14), config: changed() },
        Message::Install { config: changed(), left: vec![(B, Incarnation(99))] },
        Message::AttachWanted,
    ]
}

fn updates_of_version_2() -> Vec<MetaUpdate> {
    vec![MetaUpdate::Config(changed()), MetaUpdate::Removed]
}

fn grant() -> GrantNumber {
    GrantNumber { epoch: Epoch(6), counter: 2 }
}

fn ballot(number: u64) -> Ballot {
    Ballot { number, node: B, incarnation: Incarnation(102) }
}

fn mixed() -> [u64; 16] {
    std::array::from_fn(|word| word as u64)
}

/// One of each kind.
fn messages() -> Vec<Message> {
    let range = BlockRange::new(1000, 1002);
    let (id, write, round) = (ReadId(21), WriteId(22), Round(23));
    let (incarnation, session) = (Incarnation(101), SessionId(9));
    vec![
        Message::Heartbeat { incarnation, sent_at: 5, session, generation: 0x1111 },
        Message::HeartbeatAnswer { incarnation, sent_at: 5, permits: true },
        Message::Hello {
            incarnation,
            to: Incarnation(102),
            boot: BootId(77),
            session,
            answer: true,
            config: boxed(),
            left: vec![(B, Incarnation(99))],
        },
        Message::ExitReport { node: A, incarnation, restarting: true },
        Message::Prepare { ballot: ballot(3), generation: 0x1111 },
        Message::Promise { ballot: ballot(3), voter: VoterId(12), accepted: Some((ballot(2), boxed())) },
        Message::Accept { ballot: ballot(3), config: boxed() },
        Message::Accepted { ballot: ballot(3), voter: VoterId(12) },
        Message::NoVote { ballot: ballot(3), promised: ballot(4), has_memory: true },
        Message::VoterAdmit { voter: VoterId(14), config: boxed() },
        Message::VoterAdmitted { voter: VoterId(14) },
        Message::Install { config: boxed(), left: vec![] },
        Message::Installed {
            answered: vec![(B, 1_000_000)],
            uncommitted: vec![Uncommitted { range, writer: A, incarnation, grant: grant(), id: write }],
            suspect: vec![BlockRange::new(0, 1024)],
            grant: grant(),
            holds: vec![BlockRange::new(256, 512)],
        },
        Message::Write {
            id: write,
            grant: grant(),
            range,
            kind: WriteKind::Data,
            durable: true,
            floor: WriteId(20),
            flush_floor: FlushId(3),
        },
        Message::WriteAck { id: write },
        Message::WriteRefused { id: write, reason: Refusal::Stale },
        Message::Commit { floor: WriteId(20), flush_floor: FlushId(3) },
        Message::CommitWanted,
        Message::Flush { id: FlushId(4), floor: WriteId(20) },
        Message::FlushAck { id: FlushId(4) },
        Message::GrantAsk { id: AskId(31), range, class: Class::High, waited: 250 },
        Message::Granted { id: AskId(31), range: BlockRange::new(768, 1024), number: grant() },
        Message::Recall { id: RecallId(32), range: BlockRange::new(0, 1024), needed: range, class: Class::Normal },
        Message::Released { id: RecallId(32), kept: vec![BlockRange::new(0, 256)] },
        Message::Read { id, range },
        Message::ReadReply { id, range },
        Message::ReadRefused { id, reason: Refusal::NoReadPermission },
        Message::DigestAsk { id, range },
        Message::Digests { id, range, digests: vec![Digest([1; 16]), Digest([2; 16])] },
        Message::RollForward { id, range, grant: grant(), write },
        Message::RollForwardAck { id },
        Message::ReconcileDone,
        Message::MapAsk { round, from: 1024, peer: B },
        Message::MapPart {
            round,
            peer: B,
            valid: true,
            since: Epoch(5),
            chunks: vec![(1, mixed(), [0; 16]), (2, [0; 16], [u64::MAX; 16])],
            next: Some(3072),
            absent: vec![C],
        },
        Message::Pull { round, id, range },
        Message::Pulled { round, id, range },
        Message::PulledDurable { round, ranges: vec![range] },
        Message::LeaveAsk,
        Message::LeaveAnswer { stays: true },
        Message::Goodbye { incarnation },
        Message::GoodbyeSeen,
    ]
}

fn updates() -> Vec<MetaUpdate> {
    vec![
        MetaUpdate::Started { incarnation: Incarnation(101), boot: BootId(77) },
        MetaUpdate::Config(boxed()),
        MetaUpdate::Left(B, Incarnation(99)),
        MetaUpdate::LeftEnded(B, Incarnation(99)),
        MetaUpdate::Voter(VoterState { id: VoterId(11), promised: ballot(3), accepted: Some((ballot(2), boxed())) }),
        MetaUpdate::IntentSet(vec![RegionIndex(4), RegionIndex(5)]),
        MetaUpdate::IntentClear(vec![RegionIndex(4)]),
        MetaUpdate::DirtyBegin { peer: B, since: Epoch(5) },
        MetaUpdate::DirtyChunk { peer: B, chunk: 3, copy: mixed(), compare: [u64::MAX; 16] },
        MetaUpdate::DirtyEnd(C),
        MetaUpdate::Failed("write: device error".to_string()),
        MetaUpdate::Emptied,
    ]
}

fn meta() -> Meta {
    let mut dirty = DirtyMap { since: Epoch(5), ..DirtyMap::default() };
    dirty.copy.insert(BlockRange::new(10, 20));
    dirty.compare.insert(BlockRange::new(1024, 3072));
    let mut meta = Meta::created(A, true, config(), Incarnation(100), BootId(76));
    meta.left.insert((B, Incarnation(99)));
    meta.intent.extend([RegionIndex(1), RegionIndex(8)]);
    meta.dirty.insert(B, dirty);
    meta.failed = Some("flush: device error".to_string());
    meta
}

fn owner() -> Owner {
    Owner { volume: VOLUME, node: A }
}

fn frame_of(message: Message) -> (Frame, PayloadHead) {
    let bytes = u32::try_from(payload_bytes(&message)).expect("small");
    let payload = PayloadHead { bytes, crc: if bytes == 0 { 0 } else { 0xc0ffee } };
    (Frame { stamp: Stamp { session: SessionId(9), epoch: Epoch(7), left: 2 }, message }, payload)
}

fn wire_bytes() -> Vec<(String, Vec<u8>)> {
    let mut lines = Vec::new();
    let key = ClusterKey::derive(b"golden");
    let call = Call { purpose: Purpose::Volume(VOLUME), net: Net::Ordinary, ends: Ends { from: A, to: B } };
    let (mut to_acceptor, mut to_dialer) = (Vec::new(), Vec::new());
    let mut dialer = Dialer::dial(key.clone(), &call, &[1; 32], &mut to_acceptor);
    let mut acceptor = Acceptor::new(key, B, [2; 32]);
    acceptor.receive(&mut &to_acceptor[..], &mut to_dialer).expect("the call is right");
    lines.push(("greeting-call".to_string(), std::mem::take(&mut to_acceptor)));
    dialer.receive(&mut &to_dialer[..], &mut to_acceptor).expect("the challenge is right");
    lines.push(("greeting-challenge".to_string(), std::mem::take(&mut to_dialer)));
    acceptor.receive(&mut &to_acceptor[..], &mut to_dialer).expect("the proof is right");
    lines.push(("greeting-proof".to_string(), to_acceptor));
    acceptor.accept(&mut to_dialer);
    lines.push(("greeting-verdict".to_string(), to_dialer));
    for message in messages() {
        lines.push((Kind::of(&message).name().to_string(), encoded(message)));
    }
    for message in messages_of_version_2() {
        lines.push((format!("{}-2", Kind::of(&message).name()), encoded(message)));
    }
    lines
}

fn encoded(message: Message) -> Vec<u8> {
    let (frame, payload) = frame_of(message);
    let mut bytes = Vec::new();
    encode_frame(&frame, payload, &mut bytes).expect("within the limits");
    bytes
}

fn name_of(update: &MetaUpdate) -> String {
    format!("{update:?}").split([' ', '(', '{']).next().unwrap_or_default().to_string()
}

fn disk_bytes() -> Vec<(String, Vec<u8>)> {
    let mut area = Vec::new();
    let mut journal = Journal::create(owner(), meta(), &mut area);
    let mut lines = vec![
        ("superblock".to_string(), Superblock::new(owner(), 1_700_000_000).encode().to_vec()),
        ("area".to_string(), area),
    ];
    let later = updates_of_version_2().into_iter().map(|update| (format!("batch-{}-2", name_of(&update)), update));
    let all = updates().into_iter().map(|update| (format!("batch-{}", name_of(&update)), update)).chain(later);
    for (name, update) in all {
        let mut batch = Vec::new();
        journal.commit(&[&[update]], &mut batch);
        lines.push((name, batch));
    }
    lines
}

/// Name and bytes in hex, runs of more than 16 zeroes as `(n)`, so that blocks stay readable.
fn text_of(lines: &[(String, Vec<u8>)]) -> String {
    let mut text = String::new();
    for (name, bytes) in lines {
        write!(text, "{name} ").expect("memory");
        let mut rest = &bytes[..];
        while let Some(byte) = rest.first() {
            let zeroes = rest.iter().take_while(|byte| **byte == 0).count();
            if zeroes > 16 {
                write!(text, "({zeroes})").expect("memory");
                rest = &rest[zeroes..];
            } else {
                write!(text, "{byte:02x}").expect("memory");
                rest = &rest[1..];
            }
        }
        text.push('\n');
    }
    text
}

fn bytes_of(text: &str) -> BTreeMap<String, Vec<u8>> {
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        let (name, mut rest) = line.split_once(' ').expect("name and bytes");
        let mut bytes = Vec::new();
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('(') {
                let (count, tail) = tail.split_once(')').expect("closed");
                bytes.resize(bytes.len() + count.parse::<usize>().expect("a number"), 0);
                rest = tail;
            } else {
                bytes.push(u8::from_str_radix(&rest[..2], 16).expect("hex"));
                rest = &rest[2..];
            }
        }
        lines.insert(name.to_string(), bytes);
    }
    lines
}

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file)
}

fn assert_golden(file: &str, lines: &[(String, Vec<u8>)]) {
    let text = text_of(lines);
    if std::env::var_os("LOCKSTEP_BLESS").is_some() {
        std::fs::write(golden(file), &text).expect("the directory is there");
    }
    let kept = std::fs::read_to_string(golden(file)).expect("the file of the newest version is kept");
    for (now, was) in text.lines().zip(kept.lines()) {
        assert_eq!(now, was, "the format has changed: is this a new version?");
    }
    assert_eq!(text.lines().count(), kept.lines().count());
}

#[test]
fn frames_and_greetings_have_the_bytes_of_version_2() {
    assert_golden("wire-v2.txt", &wire_bytes());
}

#[test]
fn metadata_has_the_bytes_of_version_2() {
    assert_golden("disk-v2.txt", &disk_bytes());
}

#[test]
fn frames_of_every_version_are_understood() {
    for (file, later) in [("wire-v1.txt", vec![]), ("wire-v2.txt", messages_of_version_2())] {
        let kept = bytes_of(&std::fs::read_to_string(golden(file)).expect("kept"));
        let name = |message: &Message| Kind::of(message).name().to_string();
        let later = later.into_iter().map(|message| (format!("{}-2", name(&message)), message));
        for (name, message) in messages().into_iter().map(|message| (name(&message), message)).chain(later) {
            let (frame, payload) = frame_of(message);
            let bytes = &kept[&name];
            assert_eq!(decode_frame(bytes), Ok(Decoded::Frame { frame, payload, head_bytes: bytes.len() }));
        }
    }
}

#[test]
fn metadata_of_every_version_is_loaded_and_goes_on_in_the_newest() {
    for (file, later) in [("disk-v1.txt", vec![]), ("disk-v2.txt", updates_of_version_2())] {
        let kept = bytes_of(&std::fs::read_to_string(golden(file)).expect("kept"));
        assert_eq!(Superblock::decode(&kept["superblock"]).map(|block| block.owner), Ok(owner()));
        let mut area = kept["area"].clone();
        let mut wanted = meta();
        let later = later.into_iter().map(|update| (format!("batch-{}-2", name_of(&update)), update));
        for (name, update) in
            updates().into_iter().map(|update| (format!("batch-{}", name_of(&update)), update)).chain(later)
        {
            area.extend_from_slice(&kept[&name]);
            wanted.apply(&update);
            let loaded = disk::load(owner(), [&area, &[]]).expect("an old version is loaded");
            assert_eq!(loaded.meta(), &wanted);
        }
        // Nothing of the newest version is appended to what an older one wrote: a snapshot comes first.
        let mut journal = disk::load(owner(), [&area, &[]]).expect("an old version is loaded");
        if file != "disk-v1.txt" {
            journal = journal.with_log_bytes(0);
        }
        let mut bytes = Vec::new();
        let commit = journal.commit(&[&updates_of_version_2()], &mut bytes);
        let snapshot = commit.snapshot.expect("the log is over its limit, or old");
        let loaded = disk::load(owner(), [&area, &bytes[..snapshot.bytes]]).expect("it is whole");
        assert_eq!(loaded.meta(), &wanted);
        let loaded = disk::load(owner(), [&area, &bytes]).expect("it is whole");
        assert_eq!(loaded.meta(), journal.meta());
        assert!(loaded.meta().removed);
    }
}

#[test]
fn there_is_a_sample_of_every_kind() {
    let kinds: BTreeSet<Kind> = messages().iter().chain(&messages_of_version_2()).map(Kind::of).collect();
    assert_eq!(kinds.len(), Kind::ALL.len());
}

#[test]
fn the_protocol_s_table_lists_every_kind_by_its_number() {
    let table = include_str!("../../../docs/protocol.md");
    for kind in Kind::ALL {
        let row = format!("| `{:02x}` | {} |", *kind as u8, kind.name());
        assert!(table.contains(&row), "docs/protocol.md lacks the row {row}");
    }
}
