//! Several writers of one volume: what a grant costs, whether two writers get in each other's way, who waits and how long.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bed::{Bed, Layout};
use super::comparison::{find_example, write_once};
use super::figures::Figures;
use super::levels::{Level, Line};
use super::probe::{Probe, longest_wait};
use crate::cleanup::Cleanup;
use crate::command::run_ok;
use crate::load::{AlignedBuffer, BLOCK_BYTES, Connection, Target};
use crate::playground::Fault;

const VOLUME: &str = "shared";
const VOLUME_BYTES: u64 = 512 << 20;
const BLOCKS: u64 = VOLUME_BYTES / BLOCK_BYTES as u64;
const EXTENT_BLOCKS: u64 = 256;
/// Writes of a series of transfers.
const TRANSFERS: usize = 200;
/// A range that was not written to for so long is idle.
const IDLE: Duration = Duration::from_millis(5);

struct Shared {
    bed: Bed,
    targets: [Target; 2],
}

/// All of it.
pub fn measure(directory: &Path, rounds: usize, duration: Duration, cleanup: &Cleanup) -> Result<Vec<Line>> {
    let bed = Bed::start(directory, &Layout::default(), cleanup)?;
    let size = format!("{}MiB", VOLUME_BYTES >> 20);
    bed.playground.create("a", VOLUME, &size, 2, &["--on", "a,b", "--access", "multi-writer"])?;
    let device = bed.attach("a", VOLUME, &[])?;
    write_once(&device)?;
    let targets = [Target::Device(device), Target::Device(bed.attach("b", VOLUME, &[])?)];
    let mut shared = Shared { bed, targets };
    let mut lines = policing()?;
    lines.extend(shared.transfers()?);
    lines.extend(shared.disjoint(rounds, duration)?);
    lines.extend(shared.contended(rounds, duration)?);
    lines.extend(shared.migrations()?);
    lines.extend(shared.priority(duration)?);
    lines.extend(shared.deaths(rounds)?);
    Ok(lines)
}

/// What the machine does more for a write whose range is held. The check itself is a part of that.
fn policing() -> Result<Vec<Line>> {
    let mut program = Command::new(find_example("policing_cost", "LOCKSTEP_POLICING_COST_BIN")?);
    let text = run_ok(&mut program)?;
    let measured: BTreeMap<String, Figures> = serde_json::from_str(&text).with_context(|| format!("parse {text}"))?;
    let figures = |name: &str| measured.get(name).cloned().unwrap_or_default();
    Ok(vec![
        Line::shown("a write to a held range, in the machine alone", "ns", figures("multi_writer")),
        Line::promised("of that for policing", "ns", figures("policing"), Level::AtMost(50.0)),
    ])
}

impl Shared {
    /// One extent goes to and fro: at once after the owner's write, and when the owner is idle.
    fn transfers(&self) -> Result<Vec<Line>> {
        let [a, b] = [self.targets[0].open()?, self.targets[1].open()?];
        let held = write_times(&a, TRANSFERS, Duration::ZERO)?;
        let alternate = |idle: Duration| -> Result<Figures> {
            let mut times = Vec::with_capacity(TRANSFERS);
            for round in 0..TRANSFERS {
                let writer = if round % 2 == 0 { &b } else { &a };
                times.extend(write_times(writer, 1, idle)?);
            }
            Ok(micros(&times))
        };
        let (busy, idle) = (alternate(Duration::ZERO)?, alternate(IDLE)?);
        let held = micros(&held);
        let own = held.median().unwrap_or(0.0);
        let more = |all: &Figures| all.0.iter().map(|it| it - own).collect::<Figures>();
        Ok(vec![
            Line::shown("4 KiB write under a held grant, depth 1", "µs", held),
            Line::promised(
                "transfer of an extent just after its owner's write",
                "µs",
                more(&busy),
                Level::AtMost(3000.0),
            ),
            Line::promised("transfer of an idle extent", "µs", more(&idle), Level::AtMost(400.0)),
        ])
    }

    /// One writer at eight requests, against two at four each, in the same ranges.
    fn disjoint(&self, rounds: usize, duration: Duration) -> Result<Vec<Line>> {
        let half = BLOCKS / 2;
        let mut ratios = Vec::new();
        // What each will use goes to it first.
        self.rates([(0, 0, half), (1, half, half)], duration)?;
        for _ in 0..rounds {
            let together = self.rates([(0, 0, half), (1, half, half)], duration)?;
            self.migrate("a")?;
            let alone = self.rates([(0, 0, half), (0, half, half)], duration)?;
            self.rates([(0, 0, half), (1, half, half)], duration / 2)?;
            ratios.push(together.iter().sum::<f64>() / alone.iter().sum::<f64>());
        }
        let what = "two writers on disjoint ranges: sum / one writer";
        Ok(vec![Line::promised(what, "x", Figures(ratios), Level::AtLeast(0.95))])
    }

    /// Both write the same extent.
    fn contended(&self, rounds: usize, duration: Duration) -> Result<Vec<Line>> {
        let (mut shares, mut waits) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let from = Instant::now();
            let probes = self.targets.each_ref().map(|target| Probe::start_within(target, 0, EXTENT_BLOCKS));
            let [a, b] = probes;
            let (a, b) = (a?, b?);
            std::thread::sleep(duration);
            let (a, b) = (a.finish()?, b.finish()?);
            shares.push(a.len() as f64 / b.len() as f64);
            waits.push(longest_wait(&a, from).max(longest_wait(&b, from)));
        }
        Ok(vec![
            Line::promised(
                "two writers of one extent: service, at least",
                "x",
                Figures(shares.clone()),
                Level::AtLeast(0.8),
            ),
            Line::promised("two writers of one extent: service, at most", "x", Figures(shares), Level::AtMost(1.25)),
            Line::shown("two writers of one extent: longest wait of a write", "ms", millis(&waits)),
        ])
    }

    fn migrations(&self) -> Result<Vec<Line>> {
        let mut times = Vec::new();
        for round in 0..20 {
            times.push(self.migrate(if round % 2 == 0 { "b" } else { "a" })?);
        }
        Ok(vec![Line::shown("all grants of the volume moved to the other node", "µs", Figures(times))])
    }

    /// A writer of high priority against a steady load of low priority in the same extent.
    fn priority(&mut self, duration: Duration) -> Result<Vec<Line>> {
        for (node, priority) in [("a", "low"), ("b", "high")] {
            self.bed.playground.detach(node, VOLUME)?;
            self.bed.attach(node, VOLUME, &["--priority", priority])?;
        }
        let low = Probe::start_within(&self.targets[0], 0, EXTENT_BLOCKS)?;
        low.wait_requests(100)?;
        let high = self.targets[1].open()?;
        let end = Instant::now() + duration;
        let mut times = Vec::new();
        while Instant::now() < end {
            times.extend(write_times(&high, 1, IDLE)?);
        }
        ensure!(low.finish()?.len() > 200, "the writer of low priority was not served");
        drop(high);
        for node in ["a", "b"] {
            self.bed.playground.detach(node, VOLUME)?;
            self.bed.attach(node, VOLUME, &[])?;
        }
        let what = "a write of high priority under a load of low priority, one extent";
        Ok(vec![Line::promised(what, "µs", micros(&times), Level::AtMost(20_000.0))])
    }

    /// One of two writers goes; how long do writes wait in ranges that the survivor holds?
    fn deaths(&self, rounds: usize) -> Result<Vec<Line>> {
        let half = BLOCKS / 2;
        let mut lines = Vec::new();
        for (what, fault, whole_node, level_ms) in [
            ("one of two writers SIGKILLed: longest wait in the survivor's ranges", Fault::Kill, false, 200.0),
            ("one of two writers' nodes silent: longest wait in the survivor's ranges", Fault::Pause, true, 3000.0),
        ] {
            let mut waits = Vec::new();
            for _ in 0..rounds {
                let dying = Probe::start_within(&self.targets[0], 0, half)?;
                let survivor = Probe::start_within(&self.targets[1], half, half)?;
                dying.wait_requests(500)?;
                survivor.wait_requests(500)?;
                let from = Instant::now();
                self.bed.playground.disturb("a", fault, whole_node)?;
                let seen = survivor.requests();
                survivor.wait_requests(seen + 500)?;
                waits.push(longest_wait(&survivor.finish()?, from));
                match fault {
                    Fault::Pause => self.bed.playground.resume("a", whole_node)?,
                    Fault::Kill | Fault::Stop => self.bed.playground.restart("a", whole_node)?,
                }
                // Its device died with it, or it was expelled while it slept.
                let _ = dying.finish();
                self.bed.playground.wait_whole(&["a".to_owned(), "b".to_owned()], VOLUME)?;
                let _ = self.bed.playground.detach("a", VOLUME);
                self.bed.attach("a", VOLUME, &[])?;
            }
            lines.push(Line::promised(what, "ms", millis(&waits), Level::AtMost(level_ms)));
        }
        Ok(lines)
    }

    /// Writes a second of two probes, each on a node and a range.
    fn rates(&self, places: [(usize, u64, u64); 2], duration: Duration) -> Result<Vec<f64>> {
        let probes = places.map(|(node, first, blocks)| Probe::start_within(&self.targets[node], first, blocks));
        let [one, other] = probes;
        let probes = [one?, other?];
        let from = Instant::now();
        std::thread::sleep(duration);
        let seconds = from.elapsed().as_secs_f64();
        probes.into_iter().map(|probe| Ok(probe.finish()?.len() as f64 / seconds)).collect()
    }

    /// Microseconds that it took.
    fn migrate(&self, to: &str) -> Result<f64> {
        let moved = self.bed.playground.at("a", &["volume", "migrate", VOLUME, "--to", to])?;
        moved["took_us"].as_f64().with_context(|| format!("no time in {moved}"))
    }
}

/// Times of writes to the first block, each after so long a pause.
fn write_times(connection: &Connection, count: usize, pause: Duration) -> Result<Vec<Duration>> {
    let buffer = AlignedBuffer::new(BLOCK_BYTES);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        connection.write(0, buffer.bytes())?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn micros(durations: &[Duration]) -> Figures {
    durations.iter().map(|it| it.as_secs_f64() * 1e6).collect()
}

fn millis(durations: &[Duration]) -> Figures {
    durations.iter().map(|it| it.as_secs_f64() * 1e3).collect()
}
