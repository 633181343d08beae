use super::marker::{FILE_NAME, Marker, MarkerVersion};
use super::{OpenPoolError, ensure_open, observe_open, observe_signature, observe_space};
use crate::cluster::PoolPlace;
use std::path::{Path, PathBuf};

fn marker(node_id: u32) -> Marker {
    let node = format!("n{node_id}");
    Marker { version: MarkerVersion::V1, cluster: "00ff".to_owned(), node_id, node, device: false }
}

fn refusal(result: Result<super::OpenPool, OpenPoolError>) -> String {
    match result {
        Err(OpenPoolError::Refused { found, .. }) => found,
        other => panic!("{other:?} is not a refusal"),
    }
}

fn names(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").path()).collect()
}

#[test]
fn a_new_directory_becomes_a_pool_and_stays_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = PoolPlace::Directory(dir.path().join("x/pool"));
    let nowhere = Path::new("/nowhere");
    assert_eq!(observe_open(&place, nowhere, &marker(1)).expect("readable"), None);
    let open = ensure_open(&place, nowhere, &marker(1)).expect("made");
    std::fs::write(open.path.join("replica"), "x").expect("writable");
    assert_eq!(ensure_open(&place, nowhere, &marker(1)).expect("again"), open);
    assert_eq!(observe_open(&place, nowhere, &marker(1)).expect("readable"), Some(open.path.clone()));
    assert!(observe_space(&open.path).expect("readable").size_bytes > 0);
    assert!(refusal(ensure_open(&place, nowhere, &marker(2))).contains("the pool of node n1"));
}

#[test]
fn a_directory_with_foreign_files_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["b", "a", "c", "d", "e", "f", "g"] {
        std::fs::write(dir.path().join(name), "mine").expect("writable");
    }
    let place = PoolPlace::Directory(dir.path().to_owned());
    let found = refusal(ensure_open(&place, Path::new("/nowhere"), &marker(1)));
    assert!(found.ends_with("a, b, c, d, e and 2 more"), "{found}");
    assert_eq!(names(dir.path()).len(), 7);
}

#[test]
fn a_damaged_marker_and_a_plain_file_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = PoolPlace::Directory(dir.path().to_owned());
    std::fs::write(dir.path().join(FILE_NAME), "version = \"9\"").expect("writable");
    assert!(refusal(ensure_open(&place, Path::new("/nowhere"), &marker(1))).contains("cannot be read"));
    let file = PoolPlace::Directory(dir.path().join(FILE_NAME));
    assert!(refusal(ensure_open(&file, Path::new("/nowhere"), &marker(1))).contains("not a directory"));
}

#[test]
fn neither_a_device_nor_the_directory_below_passes_for_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    Marker { device: true, ..marker(1) }.write(dir.path()).expect("writable");
    let place = PoolPlace::Directory(dir.path().to_owned());
    assert!(refusal(ensure_open(&place, Path::new("/nowhere"), &marker(1))).contains("unmount it"));
    observe_open(&place, Path::new("/nowhere"), &marker(1)).expect_err("the engine does not take it either");
    let device = PoolPlace::Device("/dev/none".into());
    assert_eq!(observe_open(&device, dir.path(), &marker(1)).expect("readable"), Some(dir.path().to_owned()));
    marker(1).write(dir.path()).expect("writable");
    assert_eq!(observe_open(&device, dir.path(), &marker(1)).expect("readable"), None, "it is not mounted yet");
}

#[test]
fn an_empty_lost_and_found_is_not_foreign() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("lost+found")).expect("writable");
    let place = PoolPlace::Directory(dir.path().to_owned());
    ensure_open(&place, Path::new("/nowhere"), &marker(1)).expect("made");
}

#[test]
fn signatures_and_data_at_either_end_are_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk");
    let file = std::fs::File::create(&path).expect("writable");
    file.set_len(64 << 20).expect("sparse");
    assert_eq!(observe_signature(&path).expect("readable"), None);

    let mut last = vec![0; 64 << 20];
    last[(64 << 20) - 9] = 7;
    std::fs::write(&path, &last).expect("writable");
    let found = observe_signature(&path).expect("readable").expect("found");
    assert_eq!(found.text, format!("data that is not zero at byte {}", (64 << 20) - 9));

    std::process::Command::new("mkfs.ext4").arg("-qF").arg(&path).status().expect("mkfs.ext4 runs");
    let found = observe_signature(&path).expect("readable").expect("found");
    assert_eq!(found.text, "a signature of ext4");
    let place = PoolPlace::Device(path);
    assert!(refusal(ensure_open(&place, Path::new("/nowhere"), &marker(1))).contains("not a block device"));
}
