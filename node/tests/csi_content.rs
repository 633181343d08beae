//! What is on a device when it is staged: foreign things are never written over, journals are replayed, file systems fill their device.

mod common;
mod csi;

use common::{Ground, is_alive, until};
use csi::signatures::{dos_table, gpt_table, lvm_label};
use csi::{Host, block, create, ext4, filesystem, is_attached, run, xfs};
use lockstep_csi::capability::{AccessMode, Capability, Filesystem};
use lockstep_csi::node_port::{ExpandError, StageError, Usage, UsageError};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const SIZE: u64 = 512 << 20;

/// Writes to the volume as a block device on node a.
fn with_device(a: &Host, write: impl FnOnce(&Path)) {
    a.stage("v", &block()).expect("staged as a block device");
    write(&a.device("v"));
    a.unstage("v").expect("unstaged");
}

/// The first and the last MiB: where everything that identifies itself does so.
fn ends(device: &Path) -> Vec<u8> {
    let file = File::open(device).expect("readable");
    let mut bytes = vec![0; 2 << 20];
    let (start, end) = bytes.split_at_mut(1 << 20);
    file.read_exact_at(start, 0).expect("readable");
    file.read_exact_at(end, SIZE - (1 << 20)).expect("readable");
    bytes
}

#[test]
fn nothing_foreign_is_formatted() {
    let ground = Ground::start(2);
    create(&ground, "v", "512MiB");
    let a = Host::of(&ground, "a");
    let text = |device: &Path| device.to_str().expect("text").to_owned();
    type Put<'a> = (&'a str, Box<dyn Fn(&Path)>, Capability);
    let cases: [Put<'_>; 6] = [
        ("type xfs", Box::new(move |device| drop(run("mkfs.xfs", &["-q", "-K", &text(device)]))), ext4()),
        ("type ext4", Box::new(move |device| drop(run("mkfs.ext4", &["-q", &text(device)]))), xfs()),
        ("swap", Box::new(move |device| drop(run("mkswap", &["-q", &text(device)]))), ext4()),
        ("LVM2_member", Box::new(lvm_label), ext4()),
        ("gpt", Box::new(gpt_table), xfs()),
        ("dos", Box::new(dos_table), ext4()),
    ];
    for (named, put, wanted) in cases {
        let mut before = Vec::new();
        with_device(&a, |device| {
            run("wipefs", &["--all", "--quiet", &text(device)]);
            run("blkdiscard", &[&text(device)]);
            put(device);
            before = ends(device);
        });
        match a.stage("v", &wanted) {
            Err(StageError::Forbidden { reason }) => assert!(reason.contains(named), "{named}: {reason}"),
            other => panic!("{named}: {other:?}"),
        }
        assert_eq!(a.left_behind(), Vec::<String>::new(), "{named}: the host is as it was");
        assert!(!is_attached(&ground, "a", "v"));
        with_device(&a, |device| assert!(ends(device) == before, "{named}: not a byte was written"));
    }
    // A blank volume to be read only is refused, too: nothing would ever be there.
    with_device(&a, |device| drop(run("blkdiscard", &[&text(device)])));
    let reader = filesystem(Filesystem::Ext4, AccessMode::SingleNodeReaderOnly, &[]);
    assert!(matches!(a.stage("v", &reader), Err(StageError::Forbidden { .. })));
    a.stage("v", &ext4()).expect("and as a writer it is formatted");
    a.unstage("v").expect("unstaged");
}

#[test]
fn a_dirty_journal_is_replayed_also_for_readers() {
    let ground = Ground::start(3);
    for (number, kind) in [(1, Filesystem::Ext4), (2, Filesystem::Xfs)] {
        let volume = format!("v{number}");
        create(&ground, &volume, "512MiB");
        let a = Host::of(&ground, "a");
        a.stage(&volume, &filesystem(kind, AccessMode::SingleNodeMultiWriter, &[])).expect("staged");
        let mut file = File::create(a.staging(&volume).join("safe")).expect("writable");
        file.write_all(b"told to be safe").expect("writable");
        file.sync_all().expect("durable");
        drop(file);
        // Everything of the node is gone at once: the file system never hears of it.
        let pids: Vec<i64> = ["worker", "agent"].map(|program| ground.pid("a", program)).to_vec();
        ground.json(&["playground", "kill", "a", "--whole-node"]);
        until("the node's programs are gone", || pids.iter().all(|pid| !is_alive(*pid)));

        let b = Host::of(&ground, "b");
        let reader = filesystem(kind, AccessMode::SingleNodeReaderOnly, &[]);
        b.stage(&volume, &reader).expect("staged for reading, after the old writer is fenced");
        assert_eq!(std::fs::read(b.staging(&volume).join("safe")).expect("replayed"), b"told to be safe");
        assert!(std::fs::write(b.staging(&volume).join("more"), "x").is_err(), "it is mounted for reading");
        b.unstage(&volume).expect("unstaged");
        assert_eq!(b.left_behind(), Vec::<String>::new());
        ground.json(&["playground", "restart", "a", "--whole-node"]);
        a.unstage(&volume).expect("the dead mount goes");
        assert_eq!(a.left_behind(), Vec::<String>::new());
    }
}

#[test]
fn a_file_system_with_errors_is_checked_and_one_beyond_repair_is_refused() {
    let ground = Ground::start(2);
    create(&ground, "v", "512MiB");
    let a = Host::of(&ground, "a");
    a.stage("v", &ext4()).expect("staged");
    a.unstage("v").expect("unstaged");
    // Marked as having errors, and a wrong count of free blocks, which preen repairs.
    with_device(&a, |device| {
        let device = device.to_str().expect("text");
        run("debugfs", &["-w", "-R", "set_super_value state 2", device]);
        run("debugfs", &["-w", "-R", "set_super_value free_blocks_count 1", device]);
    });
    a.stage("v", &ext4()).expect("checked, and staged");
    a.unstage("v").expect("unstaged");
    with_device(&a, |device| drop(run("e2fsck", &["-f", "-n", device.to_str().expect("text")])));
    // The root directory is gone: a person has to decide.
    with_device(&a, |device| {
        let device = device.to_str().expect("text");
        run("debugfs", &["-w", "-R", "clri <2>", device]);
        run("debugfs", &["-w", "-R", "set_super_value state 2", device]);
    });
    match a.stage("v", &ext4()) {
        Err(StageError::Forbidden { reason }) => {
            assert!(reason.contains("damaged") && reason.contains("e2fsck"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(a.left_behind(), Vec::<String>::new());
}

/// The kernel lets a mounted ext4 grow only for who has CAP_SYS_RESOURCE (24), which some containers' root lacks.
fn may_grow_mounted_ext4() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a line");
    u64::from_str_radix(set.trim(), 16).expect("hex digits") >> 24 & 1 == 1
}

#[test]
fn file_systems_fill_a_volume_that_grew() {
    let ground = Ground::start(2);
    let total = |a: &Host, volume: &str| match a.usage(volume, &a.staging(volume)) {
        Ok(Usage::Filesystem { bytes, inodes }) => {
            assert!(bytes.used + bytes.available <= bytes.total && inodes.used > 0, "{bytes:?} {inodes:?}");
            bytes.total
        }
        other => panic!("{other:?}"),
    };
    for (volume, capability) in [("v4", ext4()), ("vx", xfs())] {
        create(&ground, volume, "512MiB");
        let a = Host::of(&ground, "a");
        a.stage(volume, &capability).expect("staged");
        a.publish(volume, "p", &capability, false).expect("published");
        let before = total(&a, volume);
        let grow = |size: &str| ground.json(&["--node", "b", "volume", "resize", volume, "--size", size]);
        grow("768MiB");
        if capability == ext4() && !may_grow_mounted_ext4() {
            // Then it is said, and the next stage below does it.
            match a.expand(volume, &a.target("p"), 768 << 20) {
                Err(ExpandError::Host { source, .. }) => assert!(source.to_string().contains("CAP_SYS_RESOURCE")),
                other => panic!("{other:?}"),
            }
            a.stage(volume, &capability).expect("staged as it was");
        } else {
            // By the target path, while the device may still be following.
            assert_eq!(a.expand(volume, &a.target("p"), 768 << 20).expect("grown"), 768 << 20);
            assert_eq!(a.expand(volume, &a.staging(volume), 768 << 20).expect("again"), 768 << 20);
            assert!(total(&a, volume) > before + (200 << 20));
        }
        match a.expand(volume, &a.staging(volume), 2 << 30) {
            Err(ExpandError::OutOfRange { size_bytes }) => assert_eq!(size_bytes, 768 << 20),
            other => panic!("{other:?}"),
        }
        let nowhere = a.target("nowhere");
        assert!(matches!(a.expand(volume, &nowhere, 1), Err(ExpandError::NotThere { .. })));
        assert!(matches!(a.expand("none", &a.staging(volume), 1), Err(ExpandError::UnknownVolume)));
        assert!(matches!(a.usage(volume, &nowhere), Err(UsageError::NotThere { .. })));
        assert!(matches!(a.usage("none", &a.staging(volume)), Err(UsageError::UnknownVolume)));
        a.unpublish(volume, "p").expect("unpublished");
        a.unstage(volume).expect("unstaged");
        // What grew while it was nowhere staged is filled by the next stage.
        grow("1GiB");
        a.stage(volume, &capability).expect("staged");
        assert!(total(&a, volume) > before + (450 << 20));
        a.unstage(volume).expect("unstaged");
        assert_eq!(a.left_behind(), Vec::<String>::new());
    }
    let a = Host::of(&ground, "a");
    create(&ground, "raw", "64MiB");
    a.stage("raw", &block()).expect("staged");
    assert_eq!(a.expand("raw", &a.staging("raw"), 64 << 20).expect("nothing to do"), 64 << 20);
    a.unstage("raw").expect("unstaged");
}
