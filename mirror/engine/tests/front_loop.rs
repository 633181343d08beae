//! The loop front end on the real kernel: FUSE mount, loop device, file systems, with memory behind them.
//!
//! Needs root, `/dev/fuse` and loop devices; where these are missing the tests say so and pass.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

#[path = "../examples/front_null/backend.rs"]
#[allow(dead_code)]
mod backend;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::atomic::{AtomicU64, Ordering};

use backend::{Backend, Command, Store};
use lockstep_engine::front::fuse::{DeviceReads, abort_connection, is_uring_enabled};
use lockstep_engine::front::loopdev::{ChangeLoop, file_name_for};
use lockstep_engine::front::{
    FrontEnd, FrontFailure, FuseConfig, FuseConnection, FuseFrontEnd, FuseTransport, LoopDevice, LoopSetup,
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 256 * MIB;
const MULTISHOT: FuseTransport = FuseTransport::Device(DeviceReads::Multishot);

/// A mounted volume with its loop device, and the way back.
struct Fixture {
    dir: PathBuf,
    backend: Option<Backend>,
    connection: FuseConnection,
    file_name: String,
    device: LoopDevice,
}

impl Fixture {
    fn start(name: &str, transport: FuseTransport, read_only: bool) -> Option<Fixture> {
        if OpenOptions::new().write(true).open("/dev/fuse").is_err() || !Path::new("/dev/loop-control").exists() {
            eprintln!("skipped: needs root, /dev/fuse and /dev/loop-control");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("lockstep-front-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file_name = file_name_for(&dir);
        let mut config = FuseConfig::new(file_name.clone(), SIZE, transport);
        config.read_only = read_only;
        let max_io_bytes = config.max_io_bytes;
        let (backend, (connection, root)) = Backend::spawn(SIZE, Store::Ram, move |base, group, submitter| {
            let (front, root) = FuseFrontEnd::start(&config, base, group, submitter).map_err(io::Error::other)?;
            let connection = front.connection().clone();
            Ok((FrontEnd::Fuse(front), (connection, root)))
        })
        .unwrap();
        let device_dir = PathBuf::from("/dev");
        let name = connection.file_name(&file_name);
        let setup = LoopSetup { root, file_name: name, size_bytes: SIZE, read_only, max_io_bytes, device_dir };
        let device = setup.run().unwrap();
        Some(Fixture { dir, backend: Some(backend), connection, file_name, device })
    }

    fn counter(&self, pick: impl Fn(&backend::Counters) -> &AtomicU64) -> u64 {
        pick(&self.backend.as_ref().unwrap().counters).load(Ordering::Relaxed)
    }

    fn open(&self, flags: i32) -> File {
        let path = self.device.path();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
    }

    /// The orderly end: loop device, file system, front end.
    fn end(mut self) {
        self.device.detach().unwrap();
        self.backend.take().unwrap().join().unwrap();
        assert!(!self.connection.is_connected());
        assert!(LoopDevice::find(&self.file_name, Path::new("/dev")).is_empty());
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = Program::new("umount").arg(self.dir.join("fs")).stderr(std::process::Stdio::null()).status();
        self.connection.abort();
        LoopDevice::reclaim(&self.file_name, Path::new("/dev"));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A page-aligned buffer, for direct I/O.
struct Block {
    memory: Vec<u8>,
    start: usize,
}

impl Block {
    fn of(byte: u8) -> Block {
        let memory = vec![byte; 8192];
        let start = memory.as_ptr().align_offset(4096);
        Block { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + 4096]
    }
}

fn run(program: &str, args: &[&Path]) {
    let output = Program::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn file_system_survives(transport: FuseTransport, name: &str) {
    let Some(fixture) = Fixture::start(name, transport, false) else { return };
    let device = fixture.device.path().to_owned();
    let dir = fixture.dir.join("fs");
    fs::create_dir_all(&dir).unwrap();
    run("mkfs.ext4", &[Path::new("-q"), &device]);
    run("mount", &[&device, &dir]);
    let content: Vec<u8> = (0..40 * MIB).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for name in ["a", "b", "c"] {
        let mut file = File::create(dir.join(name)).unwrap();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
    }
    fs::remove_file(dir.join("b")).unwrap();
    assert!(matches!(fixture.device.detach(), Err(ChangeLoop::InUse { .. })));
    run("umount", &[&dir]);
    run("fsck.ext4", &[Path::new("-fn"), &device]);
    run("mount", &[&device, &dir]);
    assert!(fs::read(dir.join("a")).unwrap() == content && fs::read(dir.join("c")).unwrap() == content);
    run("umount", &[&dir]);
    assert!(fixture.counter(|counters| &counters.flushes) > 0);
    fixture.end();
}

#[test]
fn ext4_survives_over_the_device() {
    file_system_survives(MULTISHOT, "device");
}

#[test]
fn ext4_survives_with_several_single_reads() {
    file_system_survives(FuseTransport::Device(DeviceReads::Single(4)), "single");
}

/// The switch is machine-wide and not ours to set.
#[test]
fn ext4_survives_over_io_uring() {
    if !is_uring_enabled() {
        return eprintln!("skipped: FUSE over io_uring is switched off");
    }
    file_system_survives(FuseTransport::Uring, "uring");
}

#[test]
fn flush_and_forced_unit_access_reach_the_engine_as_flushes() {
    let Some(fixture) = Fixture::start("flush", MULTISHOT, false) else { return };
    let flushes = |fixture: &Fixture| fixture.counter(|counters| &counters.flushes);
    let device = fixture.open(libc::O_DIRECT);
    let before = flushes(&fixture);
    device.write_all_at(Block::of(1).bytes(), 0).unwrap();
    assert_eq!(flushes(&fixture), before);
    device.sync_all().unwrap();
    assert_eq!(flushes(&fixture), before + 1);
    // The block layer turns a synchronous direct write into FUA, FUA on a device without it into a flush behind the
    // write, and may flush once more for the descriptor.
    let durable = fixture.open(libc::O_DIRECT | libc::O_DSYNC);
    for _ in 0..5 {
        let before = flushes(&fixture);
        durable.write_all_at(Block::of(2).bytes(), 4096).unwrap();
        assert!(flushes(&fixture) > before);
    }
    drop((device, durable));
    fixture.end();
}

#[test]
fn direct_io_bypasses_the_page_cache_of_the_loop_file() {
    let Some(fixture) = Fixture::start("direct", MULTISHOT, false) else { return };
    let dio = fs::read_to_string(format!("/sys/block/loop{}/loop/dio", fixture.device.number())).unwrap();
    assert_eq!(dio.trim(), "1");
    let device = fixture.open(libc::O_DIRECT);
    device.write_all_at(Block::of(7).bytes(), 8192).unwrap();
    assert_eq!(fixture.counter(|counters| &counters.writes), 1);
    let mut block = Block::of(0);
    for number in 1..=3 {
        let before = fixture.counter(|counters| &counters.reads);
        device.read_exact_at(block.bytes(), 8192).unwrap();
        assert_eq!(block.bytes(), Block::of(7).bytes(), "read {number}");
        assert_eq!(fixture.counter(|counters| &counters.reads), before + 1);
    }
    drop(device);
    fixture.end();
}

#[test]
fn hole_in_the_device_reads_as_zeroes() {
    let Some(fixture) = Fixture::start("hole", MULTISHOT, false) else { return };
    let device = fixture.open(libc::O_DIRECT);
    device.write_all_at(Block::of(9).bytes(), 4096).unwrap();
    let mode = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(&device, mode, 0, MIB as i64).unwrap();
    assert!(fixture.counter(|counters| &counters.zeroes) > 0);
    let mut block = Block::of(1);
    device.read_exact_at(block.bytes(), 4096).unwrap();
    assert_eq!(block.bytes(), Block::of(0).bytes());
    drop(device);
    fixture.end();
}

#[test]
fn device_grows_while_it_is_open() {
    let Some(fixture) = Fixture::start("grow", MULTISHOT, false) else { return };
    let device = fixture.open(libc::O_DIRECT);
    assert!(matches!(fixture.device.grow(2 * SIZE), Err(ChangeLoop::Size { .. })));
    fixture.backend.as_ref().unwrap().command(Command::Resize(2 * SIZE));
    // The loop takes the command before it serves the next request.
    while fixture.device.grow(2 * SIZE).is_err() {}
    device.write_all_at(Block::of(3).bytes(), 2 * SIZE - 4096).unwrap();
    let mut block = Block::of(0);
    device.read_exact_at(block.bytes(), 2 * SIZE - 4096).unwrap();
    assert_eq!(block.bytes(), Block::of(3).bytes());
    drop(device);
    fixture.end();
}

#[test]
fn failures_of_the_engine_reach_the_application() {
    let Some(fixture) = Fixture::start("failures", MULTISHOT, false) else { return };
    let device = fixture.open(libc::O_DIRECT);
    for (failure, errno) in [(FrontFailure::Io, libc::EIO), (FrontFailure::NoSpace, libc::ENOSPC)] {
        fixture.backend.as_ref().unwrap().command(Command::Fail(Some(failure)));
        let write = loop {
            // Until the loop has taken the command, writes succeed.
            if let Err(error) = device.write_all_at(Block::of(1).bytes(), 0) {
                break error;
            }
        };
        // The loop driver of the kernel knows EIO, and ENOSPC only for what it does not do directly.
        assert!([Some(errno), Some(libc::EIO)].contains(&write.raw_os_error()), "{failure}: {write}");
        let read = device.read_exact_at(Block::of(1).bytes(), 0).unwrap_err();
        assert!([Some(errno), Some(libc::EIO)].contains(&read.raw_os_error()), "{failure}: {read}");
    }
    fixture.backend.as_ref().unwrap().command(Command::Fail(None));
    while device.write_all_at(Block::of(1).bytes(), 0).is_err() {}
    drop(device);
    fixture.end();
}

#[test]
fn read_only_volume_cannot_be_written() {
    let Some(fixture) = Fixture::start("readonly", MULTISHOT, true) else { return };
    let device = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(fixture.device.path()).unwrap();
    device.read_exact_at(Block::of(1).bytes(), 0).unwrap();
    let writable = OpenOptions::new().write(true).open(fixture.device.path());
    let refused = writable.and_then(|file| file.write_all_at(Block::of(1).bytes(), 0).and_then(|()| file.sync_all()));
    assert!(refused.is_err());
    assert_eq!(fixture.counter(|counters| &counters.writes), 0);
    drop(device);
    fixture.end();
}

#[test]
fn device_in_use_is_not_detached_and_goes_on_working() {
    let Some(fixture) = Fixture::start("inuse", MULTISHOT, false) else { return };
    let device = fixture.open(libc::O_DIRECT);
    assert!(matches!(fixture.device.detach(), Err(ChangeLoop::InUse { .. })));
    device.write_all_at(Block::of(4).bytes(), 0).unwrap();
    drop(device);
    let again = fixture.open(libc::O_DIRECT);
    let mut block = Block::of(0);
    again.read_exact_at(block.bytes(), 0).unwrap();
    assert_eq!(block.bytes(), Block::of(4).bytes());
    drop(again);
    fixture.end();
}

#[test]
fn abort_under_load_ends_everything_without_waiting() {
    let Some(mut fixture) = Fixture::start("abort", MULTISHOT, false) else { return };
    let device = fixture.open(libc::O_DIRECT);
    let writer = std::thread::spawn(move || {
        let mut block = Block::of(5);
        let mut written = 0u64;
        while device.write_all_at(block.bytes(), written * 4096 % SIZE).is_ok() {
            written += 1;
        }
        written
    });
    while fixture.counter(|counters| &counters.writes) < 100 {
        std::thread::yield_now();
    }
    // The connection is found by the name of the file behind the device.
    let backing = format!("/sys/block/loop{}/loop/backing_file", fixture.device.number());
    let backing = fs::read_to_string(backing).unwrap();
    assert_eq!(backing.trim_end(), format!("/{}", fixture.connection.file_name(&fixture.file_name)));
    abort_connection(fixture.connection.number()).unwrap();
    assert!(writer.join().unwrap() > 0);
    fixture.backend.take().unwrap().join().unwrap();
    fixture.device.detach().unwrap();
    assert!(LoopDevice::find(&fixture.file_name, Path::new("/dev")).is_empty());
}
