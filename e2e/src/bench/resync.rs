//! A peer that was away: how much is copied against what changed, how fast, and what the application feels of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::bed::{Bed, Layout};
use super::figures::Figures;
use super::levels::{Level, Line};
use super::probe::{Probe, p99};
use crate::cleanup::Cleanup;
use crate::load::{AlignedBuffer, BLOCK_BYTES, Target};
use crate::playground::Fault;
use crate::random::Random;

const VOLUME: &str = "resync";
/// Changed here and there: blocks, each once.
const SCATTERED_BLOCKS: u64 = 8192;
/// Requests of the probe before and during a resync.
const PROBE_REQUESTS: u64 = 1000;
const PIECE_BYTES: usize = 1 << 20;

/// Measures on a volume of `bytes`.
pub fn measure(directory: &Path, bytes: u64, rounds: usize, cleanup: &Cleanup) -> Result<Vec<Line>> {
    let bed = Bed::start(directory, &Layout::default(), cleanup)?;
    let device = bed.written_volume(VOLUME, bytes, "b", &[])?;
    let target = Target::Device(device);
    let (mut copied, mut quiet_rate) = (Vec::new(), Vec::new());
    let (mut loaded_rate, mut p99_alone, mut p99_beside) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let changed = without_peer(&bed, || write_scattered(&target, bytes, round as u64))?;
        let start = Instant::now();
        come_back(&bed)?;
        quiet_rate.push(mib(changed) / start.elapsed().as_secs_f64());
        // Counted since the engine of b started, which was for this resync.
        let status = bed.playground.status("b", VOLUME)?;
        copied.push(status.resync.bytes_copied_total as f64 / changed as f64);

        let changed = without_peer(&bed, || write_range(&target, bytes / 2))?;
        let probe = Probe::start(&target, bytes / BLOCK_BYTES as u64)?;
        probe.wait_requests(PROBE_REQUESTS)?;
        p99_alone.push(p99(&probe.finish()?).as_secs_f64() * 1e3);
        let probe = Probe::start(&target, bytes / BLOCK_BYTES as u64)?;
        let start = Instant::now();
        let outcome = come_back(&bed);
        loaded_rate.push(mib(changed) / start.elapsed().as_secs_f64());
        let waited = probe.finish()?;
        outcome?;
        p99_beside.push(p99(&waited).as_secs_f64() * 1e3);
    }
    Ok(vec![
        Line::promised("resync: bytes copied / bytes changed", "x", Figures(copied), Level::AtMost(1.05)),
        Line::shown(
            "resync: scattered 4 KiB and 1 MiB changes, from the peer's start to in sync",
            "MiB/s",
            Figures(quiet_rate),
        ),
        Line::shown("resync: half of the volume, application at depth 4", "MiB/s", Figures(loaded_rate)),
        Line::shown("p99 of a 4 KiB write, peer away", "ms", Figures(p99_alone)),
        Line::shown("p99 of a 4 KiB write beside the resync", "ms", Figures(p99_beside)),
    ])
}

/// Kills the peer, changes something, and leaves the peer away; how many bytes changed.
fn without_peer(bed: &Bed, change: impl FnOnce() -> Result<u64>) -> Result<u64> {
    bed.wait_in_sync(VOLUME, &["a", "b"])?;
    bed.playground.disturb("b", Fault::Kill, false)?;
    bed.wait_in_sync(VOLUME, &["a"])?;
    change()
}

fn come_back(bed: &Bed) -> Result<()> {
    bed.playground.restart("b", false)?;
    bed.wait_in_sync(VOLUME, &["a", "b"])
}

/// Distinct blocks all over the volume, and an eighth of it in large pieces; bytes changed, each counted once.
fn write_scattered(target: &Target, bytes: u64, seed: u64) -> Result<u64> {
    let connection = target.open()?;
    let eighth = bytes / 8 / PIECE_BYTES as u64 * PIECE_BYTES as u64;
    let mut random = Random::new(seed + 1);
    let mut blocks = BTreeSet::new();
    // Beyond the eighth, so that nothing changes twice.
    let (first, end) = (eighth / BLOCK_BYTES as u64, bytes / BLOCK_BYTES as u64);
    while (blocks.len() as u64) < SCATTERED_BLOCKS.min((end - first) / 2) {
        blocks.insert(first + random.below(end - first));
    }
    let mut buffer = AlignedBuffer::new(PIECE_BYTES);
    // Other bytes in each round: equal ones would be found equal by digest where digests are compared.
    buffer.bytes_mut().chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.draw().to_le_bytes()));
    for block in &blocks {
        connection.write(block * BLOCK_BYTES as u64, buffer.prefix(BLOCK_BYTES)).context("write a block")?;
    }
    for piece in 0..eighth / PIECE_BYTES as u64 {
        connection.write(piece * PIECE_BYTES as u64, buffer.bytes()).context("write a piece")?;
    }
    connection.flush()?;
    Ok(blocks.len() as u64 * BLOCK_BYTES as u64 + eighth)
}

fn write_range(target: &Target, bytes: u64) -> Result<u64> {
    let connection = target.open()?;
    let mut buffer = AlignedBuffer::new(PIECE_BYTES);
    buffer.bytes_mut().fill(0x3c);
    let pieces = bytes / PIECE_BYTES as u64;
    for piece in 0..pieces {
        connection.write(piece * PIECE_BYTES as u64, buffer.bytes()).context("write a piece")?;
    }
    Ok(pieces * PIECE_BYTES as u64)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
