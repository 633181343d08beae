//! Devices that die under a mount: what was staged on them goes, within a bound, and is staged anew.

mod common;
mod csi;

use common::{Ground, is_alive, signal, until};
use csi::{Host, block, create, ext4, filesystem, id, mount_at, xfs};
use lockstep_csi::capability::{AccessMode, Capability, Filesystem};
use lockstep_csi::node_port::{StageError, UnstageError};
use nix::sys::signal::Signal;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Longer than any single call of the port may take here: kubelet waits for 120 s.
const BOUND: Duration = Duration::from_secs(60);

/// Runs a call that must end within the bound, whatever it answers.
fn bounded<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    assert!(start.elapsed() < BOUND, "{what} took {:?}", start.elapsed());
    result
}

/// Nothing of ours waits for a device without being killable. Who waits for a disk for a moment, as tests beside this one do, does not hang.
fn ensure_none_hangs() {
    until("no thread hangs", || hanging().is_empty());
}

fn hanging() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").expect("readable");
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    threads
        .flatten()
        .filter_map(stat)
        .filter(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D')))
        .collect()
}

/// Starts a killed engine again. On a busy machine the command gives up before the supervisor has come to it.
fn revive(ground: &Ground) {
    until("the engine runs again", || ground.run(&["playground", "restart", "a"]).code == 0);
}

/// All programs of the node die, also what keeps its devices alive while an engine is away, and are started again.
fn lose_node(ground: &Ground) {
    ground.json(&["playground", "kill", "a", "--whole-node"]);
    until("the node runs again", || ground.run(&["playground", "restart", "a", "--whole-node"]).code == 0);
}

fn write_synced(path: &std::path::Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[test]
fn what_an_engine_took_with_it_is_unstaged_and_staged_anew() {
    let ground = Ground::start(2);
    for (volume, capability) in [("v4", ext4()), ("vx", xfs()), ("raw", block())] {
        create(&ground, volume, "512MiB");
        let a = Host::of(&ground, "a");
        let kept = |host: &Host| host.target("p").join("kept");
        a.stage(volume, &capability).expect("staged");
        a.publish(volume, "p", &capability, false).expect("published");
        if capability.mount().is_some() {
            write_synced(&kept(&a), b"kept").expect("writable");
            // Dirty, and never to be written.
            std::fs::write(a.target("p").join("dirty"), vec![1; 1 << 20]).expect("cached");
        }
        ground.json(&["playground", "kill", "a"]);
        // The engine is away: the mounts go all the same, and the rest once it is back.
        bounded("unpublish", || a.unpublish(volume, "p")).expect("unpublished");
        let unstaged = bounded("unstage", || a.unstage(volume));
        assert!(matches!(unstaged, Err(UnstageError::NotReachable { .. })), "{volume}: {unstaged:?}");
        assert!(mount_at(&a.staging(volume)).is_none(), "{volume}");
        ensure_none_hangs();
        revive(&ground);
        // The volume may still be being opened: kubelet asks again.
        until("unstaged", || bounded("unstage", || a.unstage(volume)).is_ok());
        assert_eq!(a.left_behind(), Vec::<String>::new(), "{volume}");

        // Killed and back under a mount that nobody takes away: staged anew at the same path.
        a.stage(volume, &capability).expect("staged");
        lose_node(&ground);
        bounded("stage", || a.stage(volume, &capability)).expect("staged anew");
        if capability.mount().is_some() {
            assert_eq!(std::fs::read(a.staging(volume).join("kept")).expect("replayed"), b"kept");
            write_synced(&a.staging(volume).join("more"), b"more").expect("it lives");
        }
        // And again while it is published: publishing finds out, too.
        a.publish(volume, "p", &capability, false).expect("published");
        lose_node(&ground);
        bounded("publish", || a.publish(volume, "p", &capability, false)).expect("published anew");
        if capability.mount().is_some() {
            assert_eq!(std::fs::read(a.target("p").join("more")).expect("replayed"), b"more");
        }
        bounded("unpublish", || a.unpublish(volume, "p")).expect("unpublished");
        bounded("unstage", || a.unstage(volume)).expect("unstaged");
        assert_eq!(a.left_behind(), Vec::<String>::new(), "{volume}");
    }
}

#[test]
fn a_node_that_was_fenced_stages_anew_when_the_volume_comes_back() {
    let ground = Ground::start(3);
    create(&ground, "v", "64MiB");
    let (a, b) = (Host::of(&ground, "a"), Host::of(&ground, "b"));
    a.stage("v", &ext4()).expect("staged");
    a.publish("v", "old", &ext4(), false).expect("published");
    write_synced(&a.target("old").join("first"), b"first").expect("writable");

    // While a lives and has it, nobody else gets it; the wait is within what the caller waits.
    let start = Instant::now();
    let refused = b.stage_within("v", &ext4(), Duration::from_secs(3));
    assert!(matches!(refused, Err(StageError::StillWorking { .. } | StageError::HeldElsewhere { .. })), "{refused:?}");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(mount_at(&b.staging("v")), None);

    ground.json(&["playground", "pause", "a", "--whole-node"]);
    bounded("stage", || b.stage("v", &ext4())).expect("staged once a is fenced");
    write_synced(&b.staging("v").join("second"), b"second").expect("writable");
    ground.json(&["playground", "resume", "a", "--whole-node"]);
    // The old mount is dead: whatever it still shows, it can make nothing safe.
    until("the old writer is refused", || write_synced(&a.target("old").join("third"), b"third").is_err());
    b.unstage("v").expect("unstaged");

    // The pod is back on a, at the same staging path, before anybody took the dead mounts away.
    bounded("stage", || a.stage("v", &ext4())).expect("staged anew");
    assert_eq!(std::fs::read(a.staging("v").join("second")).expect("there"), b"second");
    bounded("publish", || a.publish("v", "new", &ext4(), false)).expect("published");
    assert_eq!(std::fs::read(a.target("new").join("first")).expect("there"), b"first");
    // The target of the dead pod does not count, and goes.
    bounded("unpublish", || a.unpublish("v", "old")).expect("unpublished");
    a.unpublish("v", "new").expect("unpublished");
    a.unstage("v").expect("unstaged");
    assert_eq!(a.left_behind(), Vec::<String>::new());
    assert_eq!(b.left_behind(), Vec::<String>::new());
}

#[test]
fn a_volume_without_quorum_is_unpublished_and_unstaged_within_a_bound() {
    let ground = Ground::start(3);
    create(&ground, "v", "64MiB");
    let a = Host::of(&ground, "a");
    a.stage("v", &ext4()).expect("staged");
    a.publish("v", "p", &ext4(), false).expect("published");
    for node in ["b", "c"] {
        ground.json(&["playground", "pause", node, "--whole-node"]);
    }
    // Dirty data that nobody takes: an ordinary unmount would wait for the quorum, perhaps for ever.
    std::fs::write(a.target("p").join("dirty"), vec![1; 8 << 20]).expect("cached");
    bounded("unpublish", || a.unpublish("v", "p")).expect("unpublished");
    let unstaged = bounded("unstage", || a.unstage("v"));
    assert!(matches!(unstaged, Err(UnstageError::NotReachable { .. })), "{unstaged:?}");
    assert!(mount_at(&a.staging("v")).is_none());
    ensure_none_hangs();
    for node in ["b", "c"] {
        ground.json(&["playground", "resume", node, "--whole-node"]);
    }
    until("the quorum is back", || bounded("unstage", || a.unstage("v")).is_ok());
    assert_eq!(a.left_behind(), Vec::<String>::new());
    // The front end that was given up may end a moment later; kubelet asks again too.
    until("it is staged anew", || bounded("stage", || a.stage("v", &ext4())).is_ok());
    a.unstage("v").expect("unstaged");
}

#[test]
fn an_engine_that_hangs_keeps_nobody() {
    let ground = Ground::start(3);
    create(&ground, "v", "64MiB");
    let a = Host::of(&ground, "a");
    a.stage("v", &ext4()).expect("staged");
    std::fs::write(a.staging("v").join("dirty"), vec![1; 8 << 20]).expect("cached");
    let worker = ground.pid("a", "worker");
    signal(worker, Signal::SIGSTOP);
    let unstaged = bounded("unstage", || a.unstage("v"));
    assert!(matches!(unstaged, Err(UnstageError::NotReachable { .. })), "{unstaged:?}");
    assert!(mount_at(&a.staging("v")).is_none());
    ensure_none_hangs();
    assert!(is_alive(worker));
    signal(worker, Signal::SIGCONT);
    until("the engine answers", || bounded("unstage", || a.unstage("v")).is_ok());
    assert_eq!(a.left_behind(), Vec::<String>::new());
}

#[test]
fn twenty_cycles_leave_nothing() {
    let ground = Ground::start(2);
    create(&ground, "v", "64MiB");
    create(&ground, "raw", "64MiB");
    let a = Host::of(&ground, "a");
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("readable").count();
    let mut first = 0;
    for cycle in 0..20 {
        for (volume, capability) in [("v", ext4()), ("raw", block())] {
            a.stage(volume, &capability).expect("staged");
            a.publish(volume, "p", &capability, cycle % 2 == 1).expect("published");
            a.unpublish(volume, "p").expect("unpublished");
            a.unstage(volume).expect("unstaged");
        }
        assert_eq!(a.left_behind(), Vec::<String>::new(), "cycle {cycle}");
        if cycle == 0 {
            first = descriptors();
        }
    }
    // Other tests of this process have some open for a while.
    until("as few descriptors as after the first", || descriptors() <= first + 2);
    until("no loop device is left", || common::loops_under(&ground.dir).is_empty());
    assert!(common::mounts_under(&ground.node_dir("a")).is_empty());
}

#[test]
fn calls_for_different_volumes_run_at_once() {
    let ground = Ground::start(2);
    let volumes: Vec<String> = (0..6).map(|number| format!("v{number}")).collect();
    for volume in &volumes {
        create(&ground, volume, "64MiB");
    }
    let a = Host::of(&ground, "a");
    let wanted: Capability = filesystem(Filesystem::Ext4, AccessMode::SingleNodeMultiWriter, &[]);
    std::thread::scope(|scope| {
        for volume in &volumes {
            let (a, wanted) = (&a, &wanted);
            scope.spawn(move || {
                a.stage(volume, wanted).expect("staged");
                a.publish(volume, volume, wanted, false).expect("published");
                std::fs::write(a.target(volume).join("own"), volume).expect("writable");
            });
        }
    });
    for volume in &volumes {
        assert_eq!(std::fs::read_to_string(a.target(volume).join("own")).expect("there"), *volume);
        assert_eq!(id(volume).as_str(), volume);
        a.unpublish(volume, volume).expect("unpublished");
        a.unstage(volume).expect("unstaged");
    }
    assert_eq!(a.left_behind(), Vec::<String>::new());
}
