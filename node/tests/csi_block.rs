//! Raw block volumes: a file with the device on it, also as kubelet uses it; and what of it may be written.

mod common;
mod csi;

use common::Ground;
use csi::{Host, block, create, mount_at, run};
use lockstep_csi::capability::{Access, AccessMode, Capability};
use lockstep_csi::node_port::{PublishError, StageError, Usage};
use lockstep_csi::publications::Refusal;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;

const SIZE: u64 = 64 << 20;

fn mode(mode: AccessMode) -> Capability {
    Capability::new(Access::Block, mode).expect("blocks have any mode")
}

/// Writes one block, and waits until the device has it.
fn write_block(device: &Path, byte: u8) -> io::Result<()> {
    let file = File::options().write(true).open(device)?;
    file.write_all_at(&[byte; 4096], 8192)?;
    file.sync_all()
}

fn read_block(device: &Path) -> u8 {
    let mut block = [0; 4096];
    File::open(device).expect("readable").read_exact_at(&mut block, 8192).expect("readable");
    block[17]
}

#[test]
fn a_block_volume_is_a_device_file_that_kubelet_puts_a_loop_device_over() {
    let ground = Ground::start(2);
    create(&ground, "v", "64MiB");
    let (a, b) = (Host::of(&ground, "a"), Host::of(&ground, "b"));
    a.stage("v", &block()).expect("staged");
    a.stage("v", &block()).expect("again");
    assert!(std::fs::read_dir(a.staging("v")).expect("there").next().is_none() && mount_at(&a.staging("v")).is_none());
    a.publish("v", "p", &block(), false).expect("published");
    a.publish("v", "p", &block(), false).expect("again");
    let target = a.target("p");
    assert!(std::fs::metadata(&target).expect("there").file_type().is_block_device());
    write_block(&target, 0x5a).expect("writable");
    assert_eq!(a.usage("v", &target).expect("known"), Usage::Block { total_bytes: SIZE });
    assert_eq!(a.usage("v", &a.staging("v")).expect("known"), Usage::Block { total_bytes: SIZE });

    // Kubelet opens it a second time, through a loop device of its own.
    let second = run("losetup", &["--find", "--show", target.to_str().expect("text")]);
    write_block(Path::new(second.trim()), 0x5b).expect("writable");
    run("losetup", &["--detach", second.trim()]);
    a.unpublish("v", "p").expect("unpublished");
    assert!(!target.exists());
    a.unstage("v").expect("unstaged");
    assert_eq!(a.left_behind(), Vec::<String>::new());

    b.stage("v", &block()).expect("staged elsewhere");
    b.publish("v", "p", &block(), false).expect("published elsewhere");
    assert_eq!(read_block(&b.target("p")), 0x5b);
    b.unpublish("v", "p").expect("unpublished");
    b.unstage("v").expect("unstaged");
    assert_eq!(b.left_behind(), Vec::<String>::new());
}

#[test]
fn what_is_published_for_reading_cannot_be_written() {
    let ground = Ground::start(2);
    create(&ground, "v", "64MiB");
    let a = Host::of(&ground, "a");
    a.stage("v", &block()).expect("staged");
    a.publish("v", "rw", &block(), false).expect("published");
    a.publish("v", "ro", &block(), true).expect("published for reading");
    a.publish("v", "ro", &block(), true).expect("again");
    write_block(&a.target("rw"), 0x11).expect("writable");
    assert_eq!(read_block(&a.target("ro")), 0x11);
    assert!(write_block(&a.target("ro"), 0x22).is_err(), "the device is read-only, whoever opens it");
    assert!(matches!(
        a.publish("v", "ro", &block(), false),
        Err(PublishError::Refused(Refusal::OtherThere { difference: "readonly", .. }))
    ));
    for target in ["rw", "ro"] {
        a.unpublish("v", target).expect("unpublished");
    }
    a.unstage("v").expect("unstaged");
    assert_eq!(a.left_behind(), Vec::<String>::new());

    // Staged for reading, on two nodes at once.
    let b = Host::of(&ground, "b");
    for host in [&a, &b] {
        host.stage("v", &mode(AccessMode::MultiNodeReaderOnly)).expect("staged for reading");
        host.publish("v", "p", &mode(AccessMode::MultiNodeReaderOnly), true).expect("published");
        assert_eq!(read_block(&host.target("p")), 0x11);
        assert!(write_block(&host.target("p"), 0x33).is_err());
    }
    for host in [&a, &b] {
        host.unpublish("v", "p").expect("unpublished");
        host.unstage("v").expect("unstaged");
        assert_eq!(host.left_behind(), Vec::<String>::new());
    }
}

#[test]
fn a_second_path_is_published_as_the_modes_say() {
    let ground = Ground::start(2);
    create(&ground, "v", "64MiB");
    let a = Host::of(&ground, "a");
    for (first, alone) in [
        (AccessMode::SingleNodeWriter, true),
        (AccessMode::SingleNodeSingleWriter, true),
        (AccessMode::SingleNodeMultiWriter, false),
    ] {
        a.stage("v", &mode(first)).expect("staged");
        a.publish("v", "p1", &mode(first), false).expect("published");
        // Asked of a program that has just been started.
        let fresh = Host::of(&ground, "a");
        match fresh.publish("v", "p2", &mode(first), false) {
            Err(PublishError::Refused(Refusal::OnlyOnePath { target_path, .. })) if alone => {
                assert_eq!(target_path, a.target("p1"));
            }
            other => assert!(other.is_ok() && !alone, "{first}: {other:?}"),
        }
        std::mem::forget(fresh);
        a.unpublish("v", "p1").expect("unpublished");
        // The path is free again for whoever wants to be alone.
        if alone {
            a.publish("v", "p2", &mode(first), false).expect("published");
        }
        a.unpublish("v", "p2").expect("unpublished");
        a.unstage("v").expect("unstaged");
        assert_eq!(a.left_behind(), Vec::<String>::new(), "{first}");
    }
}

#[test]
fn several_nodes_write_one_block_volume() {
    let ground = Ground::start(3);
    ground.json(&["--node", "a", "volume", "create", "v", "--size", "64MiB", "--access", "multi-writer"]);
    create(&ground, "one", "64MiB");
    let shared = mode(AccessMode::MultiNodeMultiWriter);
    let hosts = [Host::of(&ground, "a"), Host::of(&ground, "b")];
    for host in &hosts {
        assert!(matches!(host.stage("one", &shared), Err(StageError::Unsupported { .. })), "it is for one writer");
        assert_eq!(host.left_behind(), Vec::<String>::new());
        host.stage("v", &shared).expect("staged");
        host.publish("v", "p", &shared, false).expect("published");
    }
    for (byte, host) in (1..).zip(&hosts) {
        write_block(&host.target("p"), byte).expect("writable");
    }
    for host in &hosts {
        host.unpublish("v", "p").expect("unpublished");
        host.unstage("v").expect("unstaged");
        assert_eq!(host.left_behind(), Vec::<String>::new());
    }
}
