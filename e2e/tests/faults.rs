//! Disks of real nodes that fail, hang, fill up or hold something else than they should: at the writer and at the peer.

use anyhow::{Context, Result, ensure};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::faultfs::{FaultyDisk, FileSystem, Operation, Trouble};
use lockstep_e2e::load::{LoadProfile, SessionCounts};
use lockstep_e2e::playground::Fault;
use lockstep_e2e::random::Random;
use lockstep_e2e::soak::{Cluster, ClusterStart, FrontEnd, OPERATION_BOUND, VOLUME};
use lockstep_e2e::status::VolumeStatus;
use lockstep_e2e::turn::turn;
use lockstep_e2e::wait;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

const WRITER: &str = "a";
const PEER: &str = "b";
const SIZE_BYTES: u64 = 96 << 20;
const LOAD_BYTES: u64 = 48 << 20;
const DISK_BYTES: u64 = 448 << 20;
/// A disk that fails leaves at once, one that hangs after 10 s: with room for a busy machine.
const LEAVE_BOUND: Duration = Duration::from_secs(20);
const OPERATIONS: u64 = 300;

/// A cluster of which some nodes have a disk that fails on command. Dropped from top to bottom.
struct Troubled {
    cluster: Cluster,
    disks: Vec<(&'static str, FaultyDisk)>,
    _home: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Troubled {
    /// Attached at `a`, with a load that runs.
    fn start(nodes: &[&'static str], file_system: FileSystem) -> Result<Self> {
        let turn = turn();
        let home = tempfile::Builder::new().prefix("lockstep-faults-").tempdir()?;
        let cleanup = Cleanup::new();
        let disks = nodes
            .iter()
            .map(|node| {
                let disk =
                    FaultyDisk::make(&home.path().join(format!("disk-{node}")), DISK_BYTES, file_system, &cleanup)?;
                fs::create_dir(disk.path().join("pool"))?;
                Ok((*node, disk))
            })
            .collect::<Result<Vec<_>>>()?;
        let pools: Vec<(&str, PathBuf)> = disks.iter().map(|(node, disk)| (*node, disk.path().join("pool"))).collect();
        let pools: Vec<(&str, &Path)> = pools.iter().map(|(node, path)| (*node, path.as_path())).collect();
        let start = ClusterStart {
            dir: &home.path().join("playground"),
            replicas: 2,
            size_bytes: SIZE_BYTES,
            load_bytes: LOAD_BYTES,
            profile: LoadProfile::default(),
            front_end: Some(FrontEnd::NbdSocket),
            pools: &pools,
            nodes: 3,
            start_options: &[],
            volume_options: &[],
        };
        let mut cluster = Cluster::start(start, Random::new(7), &cleanup)?;
        cluster.attach(WRITER, false)?;
        cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
        Ok(Troubled { cluster, disks, _home: home, _turn: turn })
    }

    fn disk(&self, node: &str) -> Result<&FaultyDisk> {
        let found = self.disks.iter().find(|(name, _)| *name == node);
        found.map(|(_, disk)| disk).with_context(|| format!("{node} has no faulty disk"))
    }

    fn status(&self, node: &str) -> Result<VolumeStatus> {
        self.cluster.playground().status(node, VOLUME)
    }

    /// The replica of `node` leaves, `other` serves alone, nobody sees an error, and all that was acknowledged is there.
    fn expect_left(&mut self, node: &str, other: &str) -> Result<()> {
        wait::until_true(&format!("the replica of {node} has left"), LEAVE_BOUND, || {
            Ok(self.status(other)?.in_sync == [other])
        })?;
        let session = &self.cluster.writer()?.session;
        session.wait_progress(OPERATIONS, OPERATION_BOUND).context("after the replica has left")?;
        ensure!(session.counts().errors == 0, "the application saw {:?}: {:?}", session.counts(), session.last_error());
        wait::until_true(&format!("{node} says that its disk has failed, and why"), LEAVE_BOUND, || {
            let this = self.status(node)?.this_node;
            Ok(this.disk == "Failed" && this.reason.is_some_and(|reason| !reason.is_empty()))
        })?;
        self.cluster.judge()?;
        Ok(())
    }

    /// Stops everything without asking anything of a disk that may be dead.
    fn end(mut self) -> Result<()> {
        for (_, disk) in &self.disks {
            disk.switch().heal();
        }
        self.cluster.release()?;
        self.cluster.destroy()
    }
}

fn one_operation_fails(
    node: &'static str,
    operation: Operation,
    trouble: Trouble,
    file_system: FileSystem,
) -> Result<()> {
    let mut troubled = Troubled::start(&[node], file_system)?;
    troubled.disk(node)?.switch().set(operation, trouble);
    let other = if node == WRITER { PEER } else { WRITER };
    let result = troubled.expect_left(node, other);
    ensure!(troubled.disk(node)?.switch().met(operation) > 0, "nothing was injected: {result:?}");
    result?;
    troubled.end()
}

#[test]
fn writer_goes_on_through_its_peer_when_a_write_of_its_disk_fails() -> Result<()> {
    one_operation_fails(WRITER, Operation::Write, Trouble::Fail, FileSystem::Xfs)
}

#[test]
fn writer_goes_on_through_its_peer_when_a_read_of_its_disk_fails() -> Result<()> {
    one_operation_fails(WRITER, Operation::Read, Trouble::Fail, FileSystem::Ext4)
}

#[test]
fn writer_goes_on_through_its_peer_when_a_sync_of_its_disk_fails() -> Result<()> {
    one_operation_fails(WRITER, Operation::Sync, Trouble::Fail, FileSystem::Ext4)
}

#[test]
fn writer_goes_on_through_its_peer_when_its_disk_hangs() -> Result<()> {
    one_operation_fails(WRITER, Operation::Write, Trouble::Hang, FileSystem::Xfs)
}

#[test]
fn peer_leaves_when_a_write_of_its_disk_fails() -> Result<()> {
    one_operation_fails(PEER, Operation::Write, Trouble::Fail, FileSystem::Ext4)
}

#[test]
fn peer_leaves_when_a_sync_of_its_disk_fails() -> Result<()> {
    one_operation_fails(PEER, Operation::Sync, Trouble::Fail, FileSystem::Xfs)
}

#[test]
fn peer_leaves_when_its_disk_hangs() -> Result<()> {
    one_operation_fails(PEER, Operation::Write, Trouble::Hang, FileSystem::Ext4)
}

#[test]
fn peer_leaves_when_a_read_for_verify_fails() -> Result<()> {
    let mut troubled = Troubled::start(&[PEER], FileSystem::Xfs)?;
    troubled.disk(PEER)?.switch().set(Operation::Read, Trouble::Fail);
    // Only a comparison reads at the peer; whatever it says of a replica that failed under it is not the point here.
    let verified = troubled.cluster.playground().at(WRITER, &["volume", "verify", VOLUME]);
    troubled.expect_left(PEER, WRITER).with_context(|| format!("verify said {verified:?}"))?;
    troubled.end()
}

#[test]
fn replica_whose_disk_failed_stays_failed_when_its_engine_restarts() -> Result<()> {
    // Reads, since file systems give up for good themselves when they cannot write.
    let mut troubled = Troubled::start(&[WRITER], FileSystem::Xfs)?;
    troubled.disk(WRITER)?.switch().set(Operation::Read, Trouble::Fail);
    troubled.expect_left(WRITER, PEER)?;
    troubled.disk(WRITER)?.switch().heal();
    troubled.cluster.release()?;
    troubled.cluster.attach(PEER, false)?;
    // The disk works again, and nobody can tell what it still holds.
    let playground = troubled.cluster.playground();
    playground.disturb(WRITER, Fault::Kill, false)?;
    playground.restart(WRITER, false)?;
    wait::until_ok("the node runs again, and its replica is Failed", LEAVE_BOUND, || {
        let status = troubled.status(WRITER)?;
        let heard = status.peers.iter().any(|peer| peer.node == PEER && peer.reachable);
        let failed = status.this_node.disk == "Failed" && status.this_node.reason.is_some();
        Ok((heard && failed).then_some(()))
    })?;
    troubled.cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
    let status = troubled.status(PEER)?;
    ensure!(
        status.in_sync == [PEER] && status.joining.is_empty(),
        "{:?}, joining {:?}",
        status.in_sync,
        status.joining
    );
    troubled.cluster.judge()?;
    troubled.end()
}

/// Leaves nothing free for the replica of this node.
fn fill(disk: &FaultyDisk) -> Result<()> {
    let filler = File::create(disk.path().join("filler"))?;
    let mut step: i64 = 64 << 20;
    let mut at: i64 = 0;
    while step >= 4096 {
        match nix::fcntl::fallocate(&filler, nix::fcntl::FallocateFlags::empty(), at, step) {
            Ok(()) => at += step,
            Err(nix::errno::Errno::ENOSPC) => step /= 2,
            Err(error) => return Err(error).context("fill the disk"),
        }
    }
    Ok(())
}

#[test]
fn full_peer_leaves_before_anything_is_acknowledged() -> Result<()> {
    let mut troubled = Troubled::start(&[PEER], FileSystem::Ext4)?;
    fill(troubled.disk(PEER)?)?;
    troubled.expect_left(PEER, WRITER)?;
    let reason = troubled.status(PEER)?.this_node.reason.unwrap_or_default();
    ensure!(reason.contains("space") || reason.contains("full"), "the reason does not say that it is full: {reason:?}");
    // With space again and a new run of the engine it comes back.
    fs::remove_file(troubled.disk(PEER)?.path().join("filler"))?;
    let playground = troubled.cluster.playground();
    playground.disturb(PEER, Fault::Stop, false)?;
    playground.restart(PEER, false)?;
    troubled.cluster.wait_whole()?;
    troubled.cluster.judge()?;
    troubled.cluster.release()?;
    troubled.cluster.compare()?;
    troubled.end()
}

#[test]
fn full_writer_goes_on_through_its_peer() -> Result<()> {
    let mut troubled = Troubled::start(&[WRITER], FileSystem::Xfs)?;
    fill(troubled.disk(WRITER)?)?;
    troubled.expect_left(WRITER, PEER)?;
    troubled.end()
}

#[test]
fn last_replica_does_not_leave_when_all_are_full() -> Result<()> {
    let mut troubled = Troubled::start(&[WRITER, PEER], FileSystem::Ext4)?;
    fill(troubled.disk(WRITER)?)?;
    fill(troubled.disk(PEER)?)?;
    wait::until_true("writes are refused, or wait", LEAVE_BOUND, || {
        let errors = troubled.cluster.writer()?.session.counts().errors;
        Ok(errors > 0 || troubled.status(WRITER)?.state == "Suspended")
    })?;
    let in_sync = troubled.status(WRITER)?.in_sync;
    ensure!(!in_sync.is_empty(), "nobody is in sync any more");
    // Space returns, and so does service.
    for node in [WRITER, PEER] {
        fs::remove_file(troubled.disk(node)?.path().join("filler"))?;
    }
    let served = troubled.cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND);
    served.with_context(|| format!("with space again: {}", troubled.cluster.describe()))?;
    troubled.cluster.judge()?;
    troubled.end()
}

/// The files of a node's replica that begin like a superblock.
fn superblocks(pool: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![pool.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if fs::metadata(&path)?.len() <= 1 << 16 && fs::read(&path)?.starts_with(b"LOCKSTEP") {
                found.push(path);
            }
        }
    }
    ensure!(!found.is_empty(), "no superblock below {}", pool.display());
    Ok(found)
}

const CHECKED_BYTES: usize = 4092;

/// Superblock: version at 8, volume at 16, checksum at the end of the block (see the disk format).
fn reseal(block: &mut [u8]) {
    let crc = crc32c::crc32c(&block[..CHECKED_BYTES]);
    block[CHECKED_BYTES..CHECKED_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A node comes back with a changed superblock: its replica is Failed and says why, the file stays as it is, and the other goes on.
fn changed_superblock(node: &'static str, reason: &str, change: impl Fn(&mut Vec<u8>)) -> Result<()> {
    let mut troubled = Troubled::start(&[], FileSystem::Ext4)?;
    let other = if node == WRITER { PEER } else { WRITER };
    if node == WRITER {
        // What is at the writer is at stake: the other node goes on.
        troubled.cluster.release()?;
        troubled.cluster.attach(other, false)?;
    }
    let playground = troubled.cluster.playground();
    playground.disturb(node, Fault::Kill, false)?;
    let path = superblocks(&playground.pool_dir(node)?)?.remove(0);
    let mut changed = fs::read(&path)?;
    change(&mut changed);
    fs::write(&path, &changed)?;
    playground.restart(node, false)?;
    wait::until_ok(&format!("{node} says that its replica has failed: {reason}"), LEAVE_BOUND, || {
        let this = troubled.status(node)?.this_node;
        let says = this.reason.unwrap_or_default().contains(reason);
        Ok((this.disk == "Failed" && says).then_some(()))
    })?;
    let session = &troubled.cluster.writer()?.session;
    session.wait_progress(OPERATIONS, OPERATION_BOUND).context("with the other replica")?;
    let SessionCounts { errors, .. } = session.counts();
    ensure!(errors == 0, "the application saw {errors} errors");
    ensure!(fs::read(&path)? == changed, "the file was touched");
    troubled.cluster.judge()?;
    troubled.end()
}

#[test]
fn torn_superblock_at_the_peer_fails_its_replica() -> Result<()> {
    changed_superblock(PEER, "checksum", |block| block[512..1024].fill(0xa5))
}

#[test]
fn torn_superblock_at_a_former_writer_fails_its_replica() -> Result<()> {
    changed_superblock(WRITER, "checksum", |block| block[512..1024].fill(0xa5))
}

#[test]
fn newer_superblock_fails_its_replica() -> Result<()> {
    changed_superblock(PEER, "newer", |block| {
        block[8..10].copy_from_slice(&999u16.to_le_bytes());
        reseal(block);
    })
}

#[test]
fn superblock_of_another_volume_fails_its_replica() -> Result<()> {
    changed_superblock(PEER, "another volume", |block| {
        block[16] ^= 0xff;
        reseal(block);
    })
}
