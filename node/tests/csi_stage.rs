//! Staging and publishing on real devices: data that moves, what is refused, and that nothing stays.

mod common;
mod csi;

use common::Ground;
use csi::{Host, block, create, ext4, filesystem, is_attached, mount_at, xfs};
use lockstep_csi::capability::{AccessMode, Filesystem};
use lockstep_csi::node_port::{PublishError, StageError, UnstageError};

#[test]
fn ext4_and_xfs_keep_their_data_when_the_volume_moves() {
    let ground = Ground::start(3);
    let (a, c) = (Host::of(&ground, "a"), Host::of(&ground, "c"));
    for (volume, capability, kind) in [("v4", ext4(), "ext4"), ("vx", xfs(), "xfs")] {
        create(&ground, volume, "512MiB");
        a.stage(volume, &capability).expect("staged");
        let mounted = mount_at(&a.staging(volume)).expect("mounted");
        assert_eq!(mounted.kind, kind);
        a.publish(volume, "p1", &capability, false).expect("published");
        std::fs::write(a.target("p1").join("letter"), "kept").expect("writable");
        assert!(matches!(a.unstage(volume), Err(UnstageError::Published { .. })), "a pod still has it");
        a.unpublish(volume, "p1").expect("unpublished");
        a.unstage(volume).expect("unstaged");
        assert_eq!(a.left_behind(), Vec::<String>::new());
        assert!(!is_attached(&ground, "a", volume));

        // The third node has no replica of it, and finds the file system that is there.
        c.stage(volume, &capability).expect("staged elsewhere");
        c.publish(volume, "p2", &capability, false).expect("published elsewhere");
        assert_eq!(std::fs::read(c.target("p2").join("letter")).expect("readable"), b"kept");
        c.unpublish(volume, "p2").expect("unpublished");
        c.unstage(volume).expect("unstaged");
        assert_eq!(c.left_behind(), Vec::<String>::new());
    }
}

#[test]
fn the_same_again_is_fine_and_another_way_at_the_same_path_is_refused() {
    let ground = Ground::start(2);
    create(&ground, "v", "64MiB");
    {
        let a = Host::of(&ground, "a");
        a.stage("v", &ext4()).expect("staged");
        std::fs::write(a.staging("v").join("file"), "x").expect("writable");
        a.stage("v", &ext4()).expect("again");
        // A program that has just been started knows no more than what it sees.
        let fresh = Host::of(&ground, "a");
        fresh.stage("v", &ext4()).expect("again, after a restart");
        assert_eq!(mounts_of(&fresh), 1);
        for (other, difference) in [
            (block(), "kind of access"),
            (xfs(), "file system"),
            (filesystem(Filesystem::Ext4, AccessMode::SingleNodeMultiWriter, &["noatime"]), "mount options"),
            (filesystem(Filesystem::Ext4, AccessMode::SingleNodeWriter, &[]), "access mode"),
        ] {
            match fresh.stage("v", &other) {
                Err(StageError::OtherCapability { difference: said }) => assert!(said.contains(difference), "{said}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(std::fs::read(fresh.staging("v").join("file")).expect("still mounted"), b"x");
        fresh.unstage("v").expect("unstaged");
        fresh.unstage("v").expect("again");
        assert_eq!(fresh.left_behind(), Vec::<String>::new());
    }
    let a = Host::of(&ground, "a");
    assert!(matches!(a.stage("none", &ext4()), Err(StageError::UnknownVolume)));
    a.unstage("none").expect("what does not exist is not staged");
    assert!(matches!(a.publish("none", "p", &ext4(), false), Err(PublishError::UnknownVolume)));
    assert!(matches!(a.publish("v", "p", &ext4(), false), Err(PublishError::NotStaged { .. })));
    a.unpublish("v", "p").expect("what is not published is unpublished");
    assert_eq!(a.left_behind(), Vec::<String>::new());
}

fn mounts_of(host: &Host) -> usize {
    common::mounts_under(&host.dir).len()
}

#[test]
fn mount_options_reach_the_file_system_and_the_target() {
    let ground = Ground::start(2);
    create(&ground, "v", "64MiB");
    let a = Host::of(&ground, "a");
    let capability =
        filesystem(Filesystem::Ext4, AccessMode::SingleNodeMultiWriter, &["noatime", "noexec", "commit=7"]);
    a.stage("v", &capability).expect("staged");
    let text = std::fs::read_to_string("/proc/self/mounts").expect("readable");
    let staging = a.staging("v").to_string();
    let line = text.lines().find(|line| line.contains(&staging)).expect("mounted");
    assert!(line.contains("commit=7") && line.contains("noexec"), "{line}");
    a.publish("v", "rw", &capability, false).expect("published");
    a.publish("v", "ro", &capability, true).expect("published for reading");
    for (target, readonly) in [("rw", false), ("ro", true)] {
        let mount = mount_at(&a.target(target)).expect("bound");
        assert!(mount.options.contains(&"noexec".to_owned()), "{mount:?}");
        assert_eq!(mount.is_read_only(), readonly);
        let written = std::fs::write(a.target(target).join("file"), "x");
        assert_eq!(written.is_err(), readonly, "{written:?}");
        // The same again, by a program that was started in between.
        Host::publish(&a, "v", target, &capability, readonly).expect("again");
        a.publish("v", target, &capability, !readonly).expect_err("readonly differs");
    }
    for target in ["rw", "ro"] {
        a.unpublish("v", target).expect("unpublished");
    }
    a.unstage("v").expect("unstaged");
    assert_eq!(a.left_behind(), Vec::<String>::new());
}
