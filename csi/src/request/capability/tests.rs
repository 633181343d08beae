use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use tonic::Code;

use super::{offered, parse, parse_all};
use crate::capability::{AccessMode as Typed, Capability};
use crate::request::Refusal;

fn block(mode: Mode) -> proto::VolumeCapability {
    proto::VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

fn mount(mode: Mode, fs_type: &str) -> proto::VolumeCapability {
    let mount = MountVolume { fs_type: fs_type.to_owned(), ..MountVolume::default() };
    proto::VolumeCapability { access_type: Some(AccessType::Mount(mount)), ..block(mode) }
}

fn modes() -> impl Iterator<Item = Mode> {
    (1..=7).map(|number| Mode::try_from(number).expect("the specification has seven"))
}

fn refusal(exists: bool, wire: Vec<proto::VolumeCapability>) -> Refusal {
    parse_all(wire).and_then(|parsed| offered(exists, parsed)).expect_err("it is to be refused")
}

#[test]
fn every_mode_of_the_wire_is_one_of_ours() {
    let parsed: std::collections::BTreeSet<Typed> = modes()
        .map(|mode| parse("x", Some(block(mode))).expect("well formed").expect("offered").mode())
        .inspect(|mode| assert!(Typed::ALL.contains(mode)))
        .collect();
    assert_eq!(parsed.len(), Typed::ALL.len());
    for mode in modes() {
        let typed = parse("x", Some(block(mode))).expect("well formed").expect("offered").mode();
        assert_eq!(typed.as_str(), mode.as_str_name());
    }
}

#[test]
fn what_is_missing_or_unknown_is_a_wrong_request() {
    let bare = proto::VolumeCapability::default;
    let unknown = proto::VolumeCapability { access_mode: Some(AccessMode { mode: 99 }), ..block(Mode::Unknown) };
    let no_type = proto::VolumeCapability { access_type: None, ..block(Mode::SingleNodeWriter) };
    for wire in [vec![], vec![bare()], vec![block(Mode::Unknown)], vec![unknown], vec![no_type]] {
        assert_eq!(refusal(false, wire.clone()).code(), Code::InvalidArgument, "{wire:?}");
        assert_eq!(refusal(true, wire.clone()).code(), Code::InvalidArgument, "{wire:?}");
    }
    assert_eq!(parse("x", None).expect_err("nothing").code(), Code::InvalidArgument);
}

#[test]
fn a_file_system_of_several_nodes_is_refused_wherever_it_stands() {
    for mode in modes().filter(|mode| mode.as_str_name().starts_with("MULTI_NODE")) {
        let single = || mount(Mode::SingleNodeWriter, "ext4");
        let mixed = [
            vec![mount(mode, "ext4")],
            vec![single(), mount(mode, "xfs")],
            vec![single(), block(mode)],
            vec![block(mode), single()],
        ];
        for wire in mixed {
            let refused = refusal(true, wire);
            assert_eq!(refused.code(), Code::InvalidArgument);
            let text = refused.to_string();
            assert!(text.contains("several nodes") && text.contains(mode.as_str_name()), "{text}");
        }
        let blocks = parse_all(vec![block(mode), block(Mode::SingleNodeWriter)]).expect("well formed");
        assert_eq!(blocks.expect("blocks are shared").len(), 2);
    }
}

#[test]
fn an_unknown_file_system_is_wrong_for_a_new_volume_and_more_than_an_existing_one_can() {
    let wire = || vec![mount(Mode::SingleNodeWriter, "btrfs")];
    assert_eq!(refusal(false, wire()).code(), Code::InvalidArgument);
    assert_eq!(refusal(true, wire()).code(), Code::FailedPrecondition);
    assert!(refusal(false, wire()).to_string().contains("ext4"), "it says what is offered");
}

#[test]
fn flags_pass_unchanged_and_have_a_limit() {
    let with_flags = |flags: Vec<String>| {
        let mut wire = mount(Mode::SingleNodeWriter, "");
        if let Some(AccessType::Mount(mount)) = &mut wire.access_type {
            mount.mount_flags = flags;
        }
        wire
    };
    let flags = vec!["context=\"system_u:object_r:a_t:s0:c1,c2\"".to_owned(), "noatime".to_owned()];
    let parsed: Capability = parse("x", Some(with_flags(flags.clone()))).expect("well formed").expect("offered");
    assert_eq!(parsed.mount().expect("a file system").flags.as_slice(), flags);
    let long = parse("x", Some(with_flags(vec!["x".repeat(4096), "y".to_owned()]))).expect_err("too long");
    assert_eq!(long.code(), Code::InvalidArgument);
}

#[test]
fn a_mount_group_is_not_ignored() {
    let mut wire = mount(Mode::SingleNodeWriter, "");
    if let Some(AccessType::Mount(mount)) = &mut wire.access_type {
        mount.volume_mount_group = "1000".to_owned();
    }
    assert_eq!(refusal(true, vec![wire]).code(), Code::InvalidArgument);
}
