//! A volume that several nodes write at once, as its user meets it.

use anyhow::{Context, Result, ensure};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::load::Target;
use lockstep_e2e::playground::{Playground, refusal};
use serde_json::Value;

const VOLUME: &str = "shared";
const SIZE_BYTES: u64 = 64 << 20;
const EXTENT_BYTES: u64 = 1 << 20;

struct Shared {
    playground: Playground,
    _home: tempfile::TempDir,
}

/// Two replicas on `a` and `b`; nothing is attached yet.
fn start() -> Result<Shared> {
    let home = tempfile::Builder::new().prefix("lockstep-sharing-").tempdir()?;
    let playground = Playground::start(&home.path().join("playground"), 3, &Cleanup::new())?;
    playground.create("a", VOLUME, &SIZE_BYTES.to_string(), 2, &["--access", "multi-writer"])?;
    Ok(Shared { playground, _home: home })
}

impl Shared {
    fn attach(&self, node: &str) -> Result<Target> {
        let attachment = self.playground.attach(node, VOLUME, &["--front-end", "nbd-socket"])?;
        Target::of(&attachment)
    }

    fn grants(&self, node: &str) -> Result<Value> {
        let status = self.playground.at(node, &["volume", "status", VOLUME])?;
        ensure!(status["grants"].is_object(), "{node} shows no grants: {status}");
        Ok(status["grants"].clone())
    }

    /// Bytes that a node may write without asking.
    fn held_bytes(&self, node: &str) -> Result<u64> {
        let grants = self.grants(node)?;
        let held = grants["held"].as_array().context("a list")?;
        Ok(held.iter().filter_map(|range| range["length_bytes"].as_u64()).sum())
    }

    fn refused(&self, exit_code: i32, arguments: &[&str]) -> Result<String> {
        let shown = arguments.join(" ");
        let error = self.playground.at("a", arguments).err().with_context(|| format!("not refused: {shown}"))?;
        let found = refusal(&error).with_context(|| format!("{shown}: {error:#}"))?;
        ensure!(found.exit_code == Some(exit_code), "{shown}: wanted exit code {exit_code}, got {found}");
        Ok(found.message.clone())
    }
}

#[test]
fn three_nodes_write_one_volume_and_see_each_other_at_once() -> Result<()> {
    let shared = start()?;
    // `c` has no replica.
    let targets = [shared.attach("a")?, shared.attach("b")?, shared.attach("c")?];
    for round in 0..30u8 {
        let writer = &targets[usize::from(round) % 3];
        writer.fill_block(5 * EXTENT_BYTES, round + 1)?;
        for reader in &targets {
            ensure!(
                reader.block_byte(5 * EXTENT_BYTES)? == round + 1,
                "a completed write is not seen in round {round}"
            );
        }
    }
    let given: u64 = ["a", "b", "c"]
        .iter()
        .map(|node| Ok(shared.grants(node)?["given"].as_u64().unwrap_or(0)))
        .sum::<Result<u64>>()?;
    ensure!(given >= 29, "the extent went from node to node only {given} times");
    Ok(())
}

#[test]
fn one_writer_holds_everything_after_its_first_write_and_migration_moves_all_of_it() -> Result<()> {
    let shared = start()?;
    let (a, b) = (shared.attach("a")?, shared.attach("b")?);
    a.fill_block(0, 1)?;
    ensure!(shared.held_bytes("a")? == SIZE_BYTES, "a holds {} bytes", shared.held_bytes("a")?);
    let moved = shared.playground.at("a", &["volume", "migrate", VOLUME, "--to", "b"])?;
    ensure!(moved["node"] == "b" && moved["took_us"].as_u64().is_some_and(|us| us > 0), "{moved}");
    ensure!(shared.held_bytes("b")? == SIZE_BYTES && shared.held_bytes("a")? == 0, "{}", shared.grants("a")?);
    // Both stay attached, and either can go on.
    b.fill_block(0, 2)?;
    a.fill_block(8 * EXTENT_BYTES, 3)?;
    ensure!(a.block_byte(0)? == 2 && b.block_byte(8 * EXTENT_BYTES)? == 3);
    Ok(())
}

#[test]
fn settings_are_changed_live_and_what_makes_no_sense_is_refused() -> Result<()> {
    let shared = start()?;
    let a = shared.attach("a")?;
    a.fill_block(0, 1)?;
    let status = shared.playground.at("a", &["volume", "priority", VOLUME, "high"])?;
    ensure!(status["priority"] == "high" && status["access"] == "multi-writer", "{status}");
    let status = shared.playground.at("b", &["volume", "status", VOLUME])?;
    ensure!(status["priority"] == "high", "{status}");
    let status = shared.playground.at("b", &["volume", "ack", VOLUME, "durable"])?;
    ensure!(status["ack"] == "durable", "{status}");
    a.fill_block(0, 2)?;
    let status = shared.playground.at("a", &["volume", "ack", VOLUME, "disk"])?;
    ensure!(status["ack"] == "disk" && status["priority"] == "high", "{status}");
    // The tie-breaker's node hears of it, and cannot tell when everybody goes by it.
    let refused = shared.playground.at("c", &["volume", "ack", VOLUME, "durable"]).err().context("c changed it")?;
    let refused = refusal(&refused).context("c answers")?;
    ensure!(refused.exit_code == Some(3) && refused.message.contains("in sync"), "{refused}");
    ensure!(shared.playground.at("c", &["volume", "status", VOLUME])?["ack"] == "disk");
    shared.refused(2, &["volume", "migrate", VOLUME, "--to", "nobody"])?;
    let message = shared.refused(3, &["volume", "migrate", VOLUME, "--to", "b"])?;
    ensure!(message.contains("not attached"), "{message}");
    shared.refused(2, &["volume", "priority", VOLUME, "urgent"])?;
    shared.refused(2, &["volume", "ack", VOLUME, "memory"])?;
    shared.refused(2, &["volume", "create", "v", "--size", "64MiB", "--access", "everybody"])?;
    shared.playground.create("a", "single", &SIZE_BYTES.to_string(), 2, &[])?;
    let message = shared.refused(3, &["volume", "migrate", "single", "--to", "a"])?;
    ensure!(message.contains("single-writer"), "{message}");
    Ok(())
}
