//! What is counted rather than timed, and two figures that want nodes of their own: a slow link, and memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::bed::{Bed, Layout, Relayed};
use super::case::{Case, run_fio};
use super::comparison::written_file;
use super::figures::Figures;
use super::levels::{Level, Line};
use super::machine::{memory_of, read_pid};
use crate::cleanup::Cleanup;
use crate::status::VolumeStatus;
use crate::wait;

const VOLUME: &str = "promises";
const VOLUME_BYTES: u64 = 256 << 20;
const QUIET_BOUND: Duration = Duration::from_secs(60);
/// Longer than anything that a replica puts off until it has nothing else to do.
const QUIET: Duration = Duration::from_secs(3);
/// Each way.
const LINK_DELAY: Duration = Duration::from_millis(5);
/// The volume of the promise about memory.
const LARGE_VOLUME_BYTES: u64 = 100 << 30;

/// R1: reads at the writer send nothing. R4: a peer's front end sees nothing.
pub fn measure_locality(directory: &Path, duration: Duration, cleanup: &Cleanup) -> Result<Vec<Line>> {
    let bed = Bed::start(directory, &Layout::default(), cleanup)?;
    let device = bed.written_volume(VOLUME, VOLUME_BYTES, "b", &[])?;
    run_fio(Case::RandomWrite32, &device, duration)?;
    // COMMITs, and the flushes by which write intent is cleared, belong to the writes: wait until they have ended.
    let (mut last, mut since) = (0, Instant::now());
    wait::until_true("no frame but heartbeats is sent any more", QUIET_BOUND, || {
        let now = frames_but_heartbeats(&bed.status(VOLUME)?)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok(since.elapsed() >= QUIET)
    })?;
    let before = bed.status(VOLUME)?;
    let sample = run_fio(Case::RandomRead32, &device, duration)?;
    let after = bed.status(VOLUME)?;
    let sent = frames_but_heartbeats(&after)? - frames_but_heartbeats(&before)?;
    let reads = after.counter("front_reads") - before.counter("front_reads");
    let peer = bed.playground.status("b", VOLUME)?;
    let at_peer = peer.counter("front_reads") + peer.counter("front_writes");
    Ok(vec![
        Line::promised(
            format!("R1: frames but heartbeats sent by {reads} reads at the writer"),
            "",
            one(sent as f64),
            Level::AtMost(0.0),
        ),
        Line::promised("R4: requests counted by the peer's front end", "", one(at_peer as f64), Level::AtMost(0.0)),
        Line::shown("reads that were counted, by fio's own figure", "/s", one(sample.iops)),
    ])
}

/// All frames that node a sent for the volume, heartbeats apart.
fn frames_but_heartbeats(status: &VolumeStatus) -> Result<u64> {
    let sent = status.this_node.counters.get("frames_sent").and_then(Value::as_object);
    let sent = sent.context("the status counts frames_sent by kind")?;
    Ok(sent.iter().filter(|(kind, _)| *kind != "heartbeat").filter_map(|(_, count)| count.as_u64()).sum())
}

/// R3: one round trip. With a delay each way, a write at depth 1 takes little more than two delays and a disk write.
pub fn measure_slow_link(directory: &Path, rounds: usize, duration: Duration, cleanup: &Cleanup) -> Result<Vec<Line>> {
    let layout = Layout { relayed: Some((Relayed::BothNetworks, &["a", "b"])), delay: LINK_DELAY, ..Layout::default() };
    let file = directory.with_extension("raw");
    written_file(&file, VOLUME_BYTES)?;
    let bed = Bed::start(directory, &layout, cleanup)?;
    let device = bed.written_volume(VOLUME, VOLUME_BYTES, "b", &[])?;
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let disk = run_fio(Case::RandomWrite1, &file, duration)?;
        let write = run_fio(Case::RandomWrite1, &device, duration)?;
        times.push(write.mean_us / 1e3);
        ratios.push(write.mean_us / (2.0 * LINK_DELAY.as_secs_f64() * 1e6 + disk.mean_us));
    }
    std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    let delay = LINK_DELAY.as_millis();
    Ok(vec![
        Line::promised(
            format!("R3: 4 KiB write, depth 1, {delay} ms each way / (2 d + raw disk)"),
            "x",
            Figures(ratios),
            Level::AtMost(1.2),
        ),
        Line::shown(format!("4 KiB write, depth 1, {delay} ms each way"), "ms", Figures(times)),
    ])
}

/// Memory of the writer's engine with one thin volume of 100 GiB, after a load all over it.
pub fn measure_memory(directory: &Path, duration: Duration, cleanup: &Cleanup) -> Result<Vec<Line>> {
    // Pools that are large enough by name: what is not written takes no memory there either.
    let pool = LARGE_VOLUME_BYTES + (20 << 30);
    let layout = Layout { tmpfs_pools: &[("a", pool), ("b", pool)], ..Layout::default() };
    let bed = Bed::start(directory, &layout, cleanup)?;
    bed.create(VOLUME, LARGE_VOLUME_BYTES, "a,b")?;
    let device = bed.attach("a", VOLUME, &[])?;
    let pid = read_pid(&bed.playground.node_dir("a").join("worker.pid"))?;
    let attached = memory_of(pid)?;
    for case in [Case::RandomWrite32, Case::SequentialWrite, Case::RandomRead32] {
        run_fio(case, &device, duration)?;
    }
    let loaded = memory_of(pid)?;
    let mib = |bytes: u64| one(bytes as f64 / f64::from(1 << 20));
    Ok(vec![
        Line::promised(
            "engine memory, 100 GiB volume attached, after writes and reads (peak)",
            "MiB",
            mib(loaded.peak_bytes),
            Level::AtMost(64.0),
        ),
        Line::shown("the same, resident now", "MiB", mib(loaded.resident_bytes)),
        Line::shown("the same, before any load", "MiB", mib(attached.resident_bytes)),
    ])
}

fn one(value: f64) -> Figures {
    Figures(vec![value])
}
