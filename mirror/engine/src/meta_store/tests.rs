use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use lockstep_core::{
    BootId, Config, Epoch, Generation, Incarnation, Input, Meta, MetaUpdate, NodeId, PersistToken, RegionIndex,
    Settings, VolumeId, VoterId,
};
use lockstep_format::disk::Owner;

use super::MetaStore;
use crate::buffers::Buffers;
use crate::ring::Ring;
use crate::storage;

struct Bench {
    dir: PathBuf,
    ring: Ring,
    buffers: Buffers,
    store: MetaStore,
}

const NODE: NodeId = NodeId(1);

fn config() -> Config {
    Config {
        volume: VolumeId([3; 16]),
        generation: Generation { id: 1, parent: 0 },
        epoch: Epoch(1),
        size_blocks: 16,
        settings: Settings::default(),
        replicas: BTreeSet::from([NODE]),
        tie_breaker: None,
        voters: BTreeMap::from([(NODE, VoterId(1))]),
        in_sync: BTreeMap::from([(NODE, Incarnation(1))]),
        joining: BTreeMap::new(),
        attached: BTreeMap::new(),
        last_in_sync: BTreeMap::new(),
        added: BTreeMap::new(),
        requests: BTreeMap::new(),
        priority: Default::default(),
    }
}

impl Bench {
    fn create(name: &str) -> Bench {
        let dir = std::env::temp_dir().join(format!("lockstep-meta-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let owner = Owner { volume: config().volume, node: NODE };
        let meta = Meta::created(NODE, true, config(), Incarnation(1), BootId(1));
        let files = storage::create(&dir, "v", owner, meta).unwrap();
        let mut ring = Ring::new().unwrap();
        let store = MetaStore::new(files.journal, files.areas, 0, &mut ring).unwrap();
        Bench { dir, ring, buffers: Buffers::default(), store }
    }

    /// Runs until something is to be told to the core.
    fn end(&mut self) -> Input {
        let mut completions = Vec::new();
        loop {
            self.store.submit(&mut self.ring, &mut self.buffers);
            self.ring.submit_and_wait(None, 0).unwrap();
            self.ring.drain(&mut completions);
            for cqe in completions.drain(..) {
                if let Some(input) = self.store.on_completion(cqe.result, &mut self.buffers) {
                    return input;
                }
            }
        }
    }

    /// Lets go of the files, and returns what a start would find.
    fn reopen(self) -> Meta {
        let Bench { dir, mut ring, mut buffers, store } = self;
        let believed = store.meta().clone();
        store.close(&mut ring, &mut buffers);
        assert_eq!(buffers.handed_out_bytes(), 0);
        drop(ring);
        let files = storage::open(&dir.join("v"), NODE, false).unwrap();
        assert_eq!(*files.journal.meta(), believed);
        assert!(matches!(files.data, Some(Ok(_))));
        std::fs::remove_dir_all(&dir).unwrap();
        believed
    }
}

#[test]
fn updates_of_one_turn_are_one_commit_and_survive() {
    let mut bench = Bench::create("group");
    for token in 1..=3 {
        bench.store.persist(PersistToken(token), vec![MetaUpdate::IntentSet(vec![RegionIndex(token)])]);
    }
    assert_eq!(bench.end(), Input::Persisted { token: PersistToken(3) });
    assert_eq!(bench.store.commits, 1);
    let meta = bench.reopen();
    assert_eq!(meta.intent, (1..=3).map(RegionIndex).collect());
}

#[test]
fn a_log_that_grows_over_its_area_and_into_the_next_survives() {
    let mut bench = Bench::create("roll");
    let many: Vec<RegionIndex> = (0..4096).map(RegionIndex).collect();
    for token in 1..=700 {
        let update =
            if token % 2 == 1 { MetaUpdate::IntentSet(many.clone()) } else { MetaUpdate::IntentClear(many.clone()) };
        bench.store.persist(PersistToken(token), vec![update]);
        assert_eq!(bench.end(), Input::Persisted { token: PersistToken(token) });
    }
    bench.store.persist(PersistToken(701), vec![MetaUpdate::IntentSet(vec![RegionIndex(9)])]);
    assert_eq!(bench.end(), Input::Persisted { token: PersistToken(701) });
    assert_eq!(bench.reopen().intent, BTreeSet::from([RegionIndex(9)]));
}

#[test]
fn damaged_files_are_refused_and_left_alone() {
    let bench = Bench::create("damage");
    let dir = bench.dir.clone();
    drop(bench);
    let path = dir.join("v").join("superblock");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let refused = storage::open(&dir.join("v"), NODE, false).unwrap_err();
    assert_eq!(refused.to_string(), "superblock: bad checksum");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(storage::list(&dir).unwrap(), ["v"]);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_data_file_that_lost_its_end_is_not_used() {
    let bench = Bench::create("truncated");
    let dir = bench.dir.clone();
    drop(bench);
    let data = std::fs::OpenOptions::new().write(true).open(dir.join("v").join("data")).unwrap();
    data.set_len(4096).unwrap();
    let files = storage::open(&dir.join("v"), NODE, false).unwrap();
    let Some(Err(reason)) = files.data else { panic!("a short file is no replica") };
    assert_eq!(reason, "data file: 4096 bytes, the volume has 65536");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn deleting_takes_everything_away() {
    let bench = Bench::create("delete");
    let dir = bench.dir.clone();
    drop(bench);
    storage::delete(&dir, "v").unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    std::fs::remove_dir_all(&dir).unwrap();
}
