//! Crashes at every point, damage at every byte.

use lockstep_core::range::CHUNK_BLOCKS;
use lockstep_core::{BlockRange, BlockSet, DirtyMap, Epoch, Incarnation, Meta, MetaUpdate, NodeId, VolumeId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::strategies;

/// The files of one volume, as they are on disk.
#[derive(Clone, Default)]
struct Files {
    areas: [Vec<u8>; AREAS],
}

impl Files {
    fn write(&mut self, placed: Placed, bytes: &[u8]) {
        assert_eq!((placed.offset % ALIGN as u64, placed.bytes % ALIGN), (0, 0), "aligned");
        assert_eq!(placed.bytes, bytes.len());
        let start = usize::try_from(placed.offset).expect("small");
        let area = &mut self.areas[placed.area.index()];
        area.resize(area.len().max(start + bytes.len()), 0);
        area[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes only those sectors of 512 bytes that `lands` says; at least one does not land.
    fn tear(&mut self, placed: Placed, bytes: &[u8], lands: &[bool]) {
        let old = self.clone();
        self.write(placed, bytes);
        let start = usize::try_from(placed.offset).expect("small");
        let sectors = bytes.len() / 512;
        for sector in 0..sectors {
            if sector == sectors / 2 || !lands[sector % lands.len()] {
                let range = start + sector * 512..start + (sector + 1) * 512;
                let was = old.areas[placed.area.index()].get(range.clone()).map_or(vec![0; 512], <[u8]>::to_vec);
                self.areas[placed.area.index()][range].copy_from_slice(&was);
            }
        }
    }

    fn load(&self, owner: Owner) -> Result<Journal, LoadMeta> {
        load(owner, [&self.areas[0], &self.areas[1]])
    }
}

fn owner_of(meta: &Meta) -> Owner {
    Owner { volume: meta.config.volume, node: meta.node }
}

/// A new volume's files.
fn created(meta: &Meta) -> (Files, Journal) {
    let mut bytes = Vec::new();
    let journal = Journal::create(owner_of(meta), meta.clone(), &mut bytes);
    let mut files = Files::default();
    files.write(Placed { area: Area::First, offset: 0, bytes: bytes.len() }, &bytes);
    (files, journal)
}

fn commit(files: &mut Files, journal: &mut Journal, updates: &[MetaUpdate]) -> Commit {
    let mut bytes = Vec::new();
    let commit = journal.commit(&[updates], &mut bytes);
    let split = commit.snapshot.map_or(0, |placed| placed.bytes);
    if let Some(placed) = commit.snapshot {
        files.write(placed, &bytes[..split]);
    }
    files.write(commit.batch, &bytes[split..]);
    commit
}

/// Updates that a replica of this volume could have made.
fn updates_of(volume: VolumeId) -> impl Strategy<Value = Vec<MetaUpdate>> {
    let update = strategies::meta_update().prop_map(move |mut update| {
        if let MetaUpdate::Config(config) = &mut update {
            config.volume = volume;
        }
        update
    });
    vec(update, 0..6)
}

fn some_meta() -> Meta {
    strategies::meta().new_tree(&mut TestRunner::deterministic()).expect("a value").current()
}

fn started(number: u64) -> Vec<MetaUpdate> {
    vec![MetaUpdate::Started { incarnation: Incarnation(number), boot: lockstep_core::BootId(1) }]
}

fn histories() -> impl Strategy<Value = (Meta, Vec<Vec<MetaUpdate>>)> {
    strategies::meta().prop_flat_map(|meta| {
        let volume = meta.config.volume;
        (Just(meta), vec(updates_of(volume), 1..12))
    })
}

proptest! {
    #[test]
    fn what_was_committed_is_loaded_again((meta, history) in histories(), log_blocks in 0u64..6) {
        let (mut files, journal) = created(&meta);
        let mut journal = journal.with_log_bytes(log_blocks * ALIGN as u64);
        let mut wanted = meta;
        for updates in &history {
            commit(&mut files, &mut journal, updates);
            updates.iter().for_each(|update| wanted.apply(update));
            let loaded = files.load(owner_of(&wanted)).expect("nothing is damaged");
            prop_assert_eq!(loaded.meta(), &wanted);
            prop_assert_eq!(&loaded.with_log_bytes(log_blocks * ALIGN as u64), &journal);
        }
    }

    #[test]
    fn a_torn_commit_leaves_what_was_durable_before_it(
        (meta, history) in histories(), log_blocks in 0u64..6, lands in vec(any::<bool>(), 1..40),
    ) {
        let owner = owner_of(&meta);
        let (mut files, journal) = created(&meta);
        let mut journal = journal.with_log_bytes(log_blocks * ALIGN as u64);
        for updates in &history {
            let before = journal.meta().clone();
            let mut bytes = Vec::new();
            let planned = journal.clone().commit(&[updates], &mut bytes);
            let (snapshot, batch) = bytes.split_at(planned.snapshot.map_or(0, |placed| placed.bytes));
            let mut torn = files.clone();
            if let Some(placed) = planned.snapshot {
                torn.tear(placed, snapshot, &lands);
                prop_assert_eq!(torn.load(owner).map(|journal| journal.meta().clone()), Ok(before.clone()));
                torn.write(placed, snapshot);
                prop_assert_eq!(torn.load(owner).map(|journal| journal.meta().clone()), Ok(before.clone()));
            }
            torn.tear(planned.batch, batch, &lands);
            let mut after = before.clone();
            updates.iter().for_each(|update| after.apply(update));
            let loaded = torn.load(owner).expect("a torn tail is a normal end");
            // The sector that did not land may have been padding: then all of the batch is there after all.
            prop_assert!(loaded.meta() == &before || loaded.meta() == &after);
            // The next run goes on from there.
            let mut next = loaded.with_log_bytes(log_blocks * ALIGN as u64);
            commit(&mut torn, &mut next, &started(77));
            prop_assert_eq!(torn.load(owner).map(|journal| journal.meta().clone()), Ok(next.meta().clone()));
            commit(&mut files, &mut journal, updates);
        }
    }

    #[test]
    fn hostile_areas_never_panic(first in vec(any::<u8>(), 0..3 * ALIGN), second in vec(any::<u8>(), 0..ALIGN)) {
        let owner = Owner { volume: VolumeId([1; 16]), node: NodeId(1) };
        prop_assert!(load(owner, [&first, &second]).is_err());
    }

    #[test]
    fn hostile_snapshots_with_right_checksums_never_panic(
        meta in strategies::meta(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        meta::encode_meta(&meta, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = meta::decode_meta(DiskVersion::NEWEST, &bytes);
    }

    #[test]
    fn a_snapshot_cut_short_anywhere_is_not_metadata(meta in strategies::meta(), at in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        meta::encode_meta(&meta, &mut bytes);
        prop_assert_eq!(meta::decode_meta(DiskVersion::NEWEST, &bytes), Ok(meta));
        bytes.truncate(at.index(bytes.len()));
        prop_assert!(meta::decode_meta(DiskVersion::NEWEST, &bytes).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_superblock_is_found(at in 0usize..ALIGN * 8, seconds in any::<u64>()) {
        let owner = Owner { volume: VolumeId([9; 16]), node: NodeId(3) };
        let mut block = Superblock::new(owner, seconds).encode();
        prop_assert_eq!(Superblock::decode(&block), Ok(Superblock::new(owner, seconds)));
        block[at / 8] ^= 1 << (at % 8);
        prop_assert!(Superblock::decode(&block).is_err());
    }

    #[test]
    fn a_flipped_bit_never_gives_another_state(
        (meta, history) in histories(), log_blocks in 0u64..4, at in any::<prop::sample::Index>(), second in any::<bool>(),
    ) {
        let owner = owner_of(&meta);
        let (mut files, journal) = created(&meta);
        let mut journal = journal.with_log_bytes(log_blocks * ALIGN as u64);
        let mut states = vec![meta];
        for updates in &history {
            commit(&mut files, &mut journal, updates);
            states.push(journal.meta().clone());
        }
        let area = &mut files.areas[usize::from(second)];
        if !area.is_empty() {
            let bit = at.index(area.len() * 8);
            area[bit / 8] ^= 1 << (bit % 8);
        }
        // Only the very last batch can be damaged without a trace: that is how a torn one looks.
        if let Ok(loaded) = files.load(owner) {
            prop_assert!(states[states.len() - 2..].contains(loaded.meta()));
        }
    }
}

#[test]
fn a_damaged_batch_in_the_middle_of_the_log_is_an_error() {
    let meta = some_meta();
    let (mut files, mut journal) = created(&meta);
    let first = commit(&mut files, &mut journal, &started(1));
    commit(&mut files, &mut journal, &started(2));
    files.areas[0][usize::try_from(first.batch.offset).expect("small") + 40] ^= 1;
    assert_eq!(files.load(owner_of(&meta)), Err(LoadMeta::LostBatch { wanted: 1, found: 2 }));
}

#[test]
fn a_damaged_snapshot_is_an_error_once_a_batch_follows_it() {
    let meta = some_meta();
    let owner = owner_of(&meta);
    let (mut files, mut journal) = created(&meta);
    commit(&mut files, &mut journal, &started(1));
    let mut journal = journal.with_log_bytes(0);
    while journal.area == Area::First {
        commit(&mut files, &mut journal, &started(9));
    }
    let lost = journal.sequence;
    for at in [8, ALIGN + 3] {
        let mut damaged = files.clone();
        damaged.areas[1][at] ^= 1;
        assert_eq!(damaged.load(owner), Err(LoadMeta::LostBatch { wanted: lost, found: lost }));
    }
}

#[test]
fn a_snapshot_that_was_torn_before_any_batch_followed_costs_nothing() {
    let meta = some_meta();
    let (mut files, journal) = created(&meta);
    let mut journal = journal.with_log_bytes(0);
    while journal.log_end - journal.log_start < journal.log_start {
        commit(&mut files, &mut journal, &started(5));
    }
    let mut bytes = Vec::new();
    let planned = journal.clone().commit(&[&started(6)], &mut bytes);
    let snapshot = planned.snapshot.expect("the log is long");
    files.write(snapshot, &bytes[..snapshot.bytes]);
    files.areas[1][ALIGN + 1] ^= 1;
    assert_eq!(files.load(owner_of(&meta)).map(|loaded| loaded.meta().clone()), Ok(journal.meta().clone()));
}

#[test]
fn areas_of_another_volume_or_node_and_of_newer_versions_are_refused() {
    let meta = some_meta();
    let (mut files, _) = created(&meta);
    let owner = owner_of(&meta);
    let stranger = Owner { node: NodeId(owner.node.0 ^ 1), ..owner };
    assert_eq!(files.load(stranger), Err(LoadMeta::OtherOwner));
    let stranger = Owner { volume: VolumeId([0xee; 16]), ..owner };
    assert_eq!(files.load(stranger), Err(LoadMeta::OtherOwner));
    files.areas[0][4] = 3;
    let crc = crate::crc32c(&files.areas[0][..ALIGN - 4]);
    files.areas[0][ALIGN - 4..ALIGN].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(files.load(owner), Err(LoadMeta::NewerVersion(3)));
    assert_eq!(Files::default().load(owner), Err(LoadMeta::NoSnapshot));
}

#[test]
fn superblocks_of_strangers_and_of_newer_versions_say_what_they_are() {
    let owner = Owner { volume: VolumeId([9; 16]), node: NodeId(3) };
    let superblock = Superblock::new(owner, 1);
    assert_eq!(superblock.check_owner(owner), Ok(()));
    let other = superblock.check_owner(Owner { volume: VolumeId([8; 16]), ..owner });
    assert_eq!(other, Err(DecodeSuperblock::OtherVolume(owner.volume)));
    assert_eq!(superblock.check_owner(Owner { node: NodeId(4), ..owner }), Err(DecodeSuperblock::OtherNode(NodeId(3))));
    let mut newer = superblock.encode();
    newer[8] = 3;
    assert_eq!(Superblock::decode(&newer), Err(DecodeSuperblock::Checksum));
    let crc = crate::crc32c(&newer[..ALIGN - 4]);
    newer[ALIGN - 4..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Superblock::decode(&newer), Err(DecodeSuperblock::NewerVersion(3)));
    assert_eq!(Superblock::decode(&[0; ALIGN]), Err(DecodeSuperblock::BadMagic));
    assert_eq!(Superblock::decode(&[0; 100]), Err(DecodeSuperblock::TooShort(100)));
}

#[test]
fn long_reasons_are_cut_at_a_character() {
    let meta = some_meta();
    let (mut files, mut journal) = created(&meta);
    commit(&mut files, &mut journal, &[MetaUpdate::Failed("ä".repeat(REASON_BYTES_MAX))]);
    let loaded = files.load(owner_of(&meta)).expect("nothing is damaged");
    assert_eq!(loaded.meta().failed.as_ref().map(|reason| reason.chars().count()), Some(REASON_BYTES_MAX / 2));
}

#[test]
fn the_snapshot_of_a_tebibyte_is_in_proportion_to_what_is_dirty() {
    let tebibyte = BlockRange::new(0, (1 << 40) / 4096);
    let chunks = tebibyte.len() / CHUNK_BLOCKS;
    let mut meta = some_meta();
    meta.dirty.clear();
    let mut size = |copy: BlockSet, compare: BlockSet| {
        meta.dirty.insert(NodeId(2), DirtyMap { since: Epoch(1), copy, compare });
        let mut bytes = Vec::new();
        encode_snapshot_of(&meta, &mut bytes);
        let loaded = load(owner_of(&meta), [&bytes, &[]]).expect("nothing is damaged");
        assert_eq!(loaded.meta(), &meta);
        bytes.len() as u64
    };
    let all = BlockSet::from_iter([tebibyte]);
    let scattered: BlockSet = (0..chunks).map(|n| BlockRange::new(n * CHUNK_BLOCKS, n * CHUNK_BLOCKS + 1)).collect();
    assert!(size(BlockSet::new(), all.clone()) < chunks * 10, "whole chunks take no bitmaps");
    assert!(size(scattered, all) < chunks * 140, "one bitmap for each chunk that is partly dirty");
}

fn encode_snapshot_of(meta: &Meta, out: &mut Vec<u8>) {
    area::encode_snapshot(owner_of(meta), 0, meta, out);
}
