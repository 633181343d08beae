//! The faulty disk itself: what it does when told, seen through a real file system.

use anyhow::{Context, Result, ensure};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::faultfs::{FaultyDisk, FileSystem, Operation, Trouble};
use lockstep_e2e::load::AlignedBuffer;
use lockstep_e2e::wait;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;
use std::time::Duration;

const DISK_BYTES: u64 = 400 << 20;
const BOUND: Duration = Duration::from_secs(20);

struct Fixture {
    file: File,
    disk: FaultyDisk,
    _dir: tempfile::TempDir,
}

fn direct_file(file_system: FileSystem) -> Result<Fixture> {
    let dir = tempfile::tempdir()?;
    let disk = FaultyDisk::make(dir.path(), DISK_BYTES, file_system, &Cleanup::new())?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(disk.path().join("file"))
        .context("open a file for direct I/O")?;
    file.write_all_at(AlignedBuffer::new(1 << 20).bytes(), 0).context("write it once")?;
    file.sync_all().context("sync it")?;
    Ok(Fixture { file, disk, _dir: dir })
}

fn write(file: &File) -> io::Result<()> {
    file.write_all_at(AlignedBuffer::new(4096).bytes(), 8192)
}

fn error_of(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn each_operation_fails_when_told_and_works_when_healed() -> Result<()> {
    let fixture = direct_file(FileSystem::Ext4)?;
    let switch = fixture.disk.switch();
    switch.set(Operation::Read, Trouble::Fail);
    let read = fixture.file.read_exact_at(AlignedBuffer::new(4096).bytes_mut(), 8192);
    ensure!(error_of(read) == Some(libc::EIO), "a read went through");
    ensure!(switch.met(Operation::Read) > 0);
    switch.heal();
    fixture.file.read_exact_at(AlignedBuffer::new(4096).bytes_mut(), 8192)?;
    write(&fixture.file)?;
    switch.set(Operation::Write, Trouble::Fail);
    ensure!(error_of(write(&fixture.file)) == Some(libc::EIO), "a write went through");
    Ok(())
}

#[test]
fn failed_sync_reaches_fdatasync() -> Result<()> {
    let fixture = direct_file(FileSystem::Xfs)?;
    write(&fixture.file)?;
    fixture.disk.switch().set(Operation::Sync, Trouble::Fail);
    ensure!(error_of(fixture.file.sync_data()) == Some(libc::EIO), "a sync went through");
    Ok(())
}

#[test]
fn hanging_write_ends_when_healed() -> Result<()> {
    let fixture = direct_file(FileSystem::Xfs)?;
    let switch = fixture.disk.switch().clone();
    switch.set(Operation::Write, Trouble::Hang);
    let file = fixture.file.try_clone()?;
    let writer = thread::spawn(move || write(&file));
    wait::until_true("a write hangs", BOUND, || Ok(switch.met(Operation::Write) > 0))?;
    ensure!(!writer.is_finished(), "the write ended while it was to hang");
    switch.heal();
    wait::until_true("the write has ended", BOUND, || Ok(writer.is_finished()))?;
    Ok(())
}
