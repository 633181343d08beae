//! The second act: two nodes write one volume through the kernel, first each in its own half, then both in the same blocks.

use super::screen::{Screen, milliseconds};
use crate::load::{LoadProfile, LoadSession, Recorder, RecorderLimits, Target, scan};
use crate::playground::Playground;
use crate::random::Random;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const VOLUME: &str = "shared";
const SIZE: &str = "128MiB";
const LOAD_BLOCKS: u64 = (64 << 20) / 4096;
const NODES: [&str; 2] = ["a", "b"];
/// Of each writer, while both write the same blocks.
const OPERATIONS: u64 = 3_000;
const BOUND: Duration = Duration::from_secs(60);
const SEED: u64 = 20_261_126;

/// What two writers showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    /// Operations whose history was judged.
    pub judged: usize,
    /// Ranges that one writer gave back for the other.
    pub transfers: u64,
    /// Longest wait for a range.
    pub longest_wait: Duration,
    /// Moving all grants from one node to the other.
    pub migration: Duration,
}

/// Plays it.
pub fn play(playground: &Playground, screen: &Screen) -> Result<Shared> {
    screen.step(
        "Second act. Create a volume that several nodes may write, and attach it on a and on b through the kernel",
    );
    playground.create("a", VOLUME, SIZE, 2, &["--on", "a,b", "--access", "multi-writer"])?;
    let mut targets = Vec::new();
    for node in NODES {
        let attachment = playground.attach(node, VOLUME, &["--front-end", "loop"])?;
        targets.push(Target::of(&attachment)?);
    }
    screen.step("Both write, read and flush the same blocks at once, and every answer is recorded");
    let recorder = Arc::new(Recorder::new(RecorderLimits { blocks: LOAD_BLOCKS, found_max: 10 }));
    let mut random = Random::new(SEED);
    let profile = LoadProfile { threads: 2, ..LoadProfile::default() };
    let mut sessions = Vec::new();
    for target in &targets {
        sessions.push(LoadSession::start(&recorder, target.clone(), profile, &mut random));
    }
    for session in &sessions {
        session.wait_progress(OPERATIONS, BOUND).context("two writers at once")?;
    }
    for session in sessions {
        ensure!(session.counts().errors == 0, "an application saw {:?}", session.counts());
        session.finish(BOUND)?;
    }
    let [at_a, at_b] = &targets[..] else { return Err(anyhow!("two nodes write")) };
    let (seen_at_a, seen_at_b) = (scan(&recorder, at_a)?, scan(&recorder, at_b)?);
    ensure!(seen_at_a == seen_at_b, "a and b read different blocks");
    let judged = recorder.check().map_err(|found| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        anyhow!("the volume is wrong:\n{}", lines.join("\n"))
    })?;
    let mut shared = Shared { judged, ..Shared::default() };
    for node in NODES {
        let status = playground.at(node, &["volume", "status", VOLUME])?;
        shared.transfers += number(&status["grants"], "given")?;
        let waited = Duration::from_micros(number(&status["grants"], "wait_max_us")?);
        shared.longest_wait = shared.longest_wait.max(waited);
    }
    screen.note(&format!(
        "{judged} operations on blocks are explained by one order; {} ranges changed hands, the longest wait for one was {}",
        shared.transfers,
        milliseconds(shared.longest_wait)
    ));

    screen.step("Move the right to write all of it to b, while both stay attached");
    let moved = playground.at("a", &["volume", "migrate", VOLUME, "--to", "b"])?;
    shared.migration = Duration::from_micros(number(&moved, "took_us")?);
    screen.note(&format!("moved in {:.1} ms", shared.migration.as_secs_f64() * 1000.0));

    screen.step("Detach it everywhere, compare the replicas and delete it");
    for node in NODES {
        playground.detach(node, VOLUME)?;
    }
    let verified = playground.at("a", &["volume", "verify", VOLUME])?;
    ensure!(verified["bytes_different"] == 0, "volume verify says {verified}");
    playground.at("a", &["volume", "delete", VOLUME])?;
    Ok(shared)
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name].as_u64().with_context(|| format!("no number {name} in {value}"))
}
