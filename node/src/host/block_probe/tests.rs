use super::{Content, ObserveContentError, observe_content};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 320 << 20;
const WITHIN: Duration = Duration::from_secs(60);

/// A sparse file: what `blkid` says of a file it says of a device. (Not below /tmp, which may refuse direct I/O.)
fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let path = dir.path().join("device");
    File::create(&path).expect("writable").set_len(SIZE).expect("sparse");
    (dir, path)
}

fn run(tool: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(tool).args(arguments).arg(path).output().expect(tool);
    assert!(output.status.success(), "{tool}: {output:?}");
}

async fn content(path: &Path) -> Content {
    observe_content(path, SIZE, WITHIN).await.expect("readable")
}

#[tokio::test]
async fn zeros_and_meaningless_bytes_are_blank() {
    let (_dir, path) = file();
    assert_eq!(content(&path).await, Content::Blank);
    File::options().write(true).open(&path).expect("there").write_all_at(&[0x5a; 70_000], 9000).expect("writable");
    assert_eq!(content(&path).await, Content::Blank);
}

#[tokio::test]
async fn file_systems_are_named_with_their_size() {
    for (kind, tool, arguments) in
        [("ext4", "mkfs.ext4", &["-q"][..]), ("ext2", "mkfs.ext2", &["-q"]), ("xfs", "mkfs.xfs", &["-q"])]
    {
        let (_dir, path) = file();
        run(tool, arguments, &path);
        assert_eq!(
            content(&path).await,
            Content::Filesystem { kind: kind.to_owned(), size_bytes: Some(SIZE) },
            "{kind}"
        );
    }
}

#[tokio::test]
async fn what_is_no_file_system_is_foreign() {
    let (_dir, path) = file();
    run("mkswap", &["-q"], &path);
    assert!(matches!(content(&path).await, Content::Foreign { text } if text.contains("swap")));

    let (_dir, path) = file();
    let mut table = [0; 512];
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&100_000_u32.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    File::options().write(true).open(&path).expect("there").write_all_at(&table, 0).expect("writable");
    assert!(matches!(content(&path).await, Content::Foreign { text } if text.contains("partition table (dos)")));
}

#[tokio::test]
async fn two_signatures_are_foreign_and_an_unfinished_xfs_is_unfinished() {
    let (_dir, path) = file();
    run("mkfs.xfs", &["-q"], &path);
    let device = File::options().write(true).open(&path).expect("there");
    device.write_all_at(&[1], 126).expect("writable");
    assert_eq!(content(&path).await, Content::Unfinished);
    device.write_all_at(&[0], 126).expect("writable");
    // The swap space's signature is at the end of the first page, where XFS has nothing.
    device.write_all_at(b"SWAPSPACE2", 4086).expect("writable");
    device.write_all_at(&1_u32.to_le_bytes(), 1024).expect("writable");
    device.write_all_at(&1000_u32.to_le_bytes(), 1028).expect("writable");
    let found = content(&path).await;
    assert!(!matches!(found, Content::Blank | Content::Unfinished), "{found:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_not_blank() {
    let (_dir, path) = file();
    // The file is shorter than the device is said to be: its end cannot be read.
    let failed = observe_content(&path, SIZE * 2, WITHIN).await.expect_err("there is no such end");
    assert!(matches!(failed, ObserveContentError::Read(_)), "{failed}");
    let failed = observe_content(&path.with_extension("none"), SIZE, WITHIN).await.expect_err("there is nothing");
    assert!(matches!(failed, ObserveContentError::Read(_)), "{failed}");
}
