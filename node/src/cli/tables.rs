//! Results as people read them.

use std::time::Duration;

use comfy_table::{Table, presets};
use nix::time::{ClockId, clock_gettime};

use crate::input::show_bytes;
use crate::playground::NodeState;
use crate::process::Observed;
use crate::view;

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

/// One line per volume.
pub(super) fn volumes(volumes: &[view::Volume]) -> String {
    if volumes.is_empty() {
        return "no volumes".to_owned();
    }
    let mut table = table(&["VOLUME", "SIZE", "STATE", "HERE", "IN SYNC", "WRITER", "TIE-BREAKER"]);
    for volume in volumes {
        table.add_row([
            volume.volume.clone(),
            show_bytes(volume.size_bytes),
            volume.state.to_owned(),
            volume.this_node.disk.to_owned(),
            list(&volume.in_sync),
            list(&volume.writers),
            volume.tie_breaker.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.to_string()
}

/// A migration.
pub(super) fn migration(migration: &view::Migration) -> String {
    let view::Migration { volume, node, took_us } = migration;
    format!("node {node} holds all grants of {volume} after {:.1} ms", *took_us as f64 / 1000.0)
}

/// Everything about one volume.
pub(super) fn volume(volume: &view::Volume) -> String {
    let this = &volume.this_node;
    let mut rows: Vec<(&str, String)> = vec![
        ("Volume", format!("{} ({})", volume.volume, volume.id)),
        ("Size", show_bytes(volume.size_bytes)),
        ("State", volume.state.to_owned()),
        ("Configuration", format!("generation {}, epoch {}", volume.generation, volume.epoch)),
        (
            "Settings",
            format!(
                "{}, priority {}, acknowledged by {}, without a quorum {}",
                volume.access, volume.priority, volume.ack, volume.on_quorum_loss
            ),
        ),
        ("Replicas", replicas(volume)),
        arbiter(volume),
        ("Writer", list(&volume.writers)),
        ("This node", this_node(this)),
    ];
    for peer in &volume.peers {
        let network =
            peer.network.as_deref().map_or_else(String::new, |network| format!(" over the {network} network"));
        let reachable = if peer.reachable { "reachable" } else { "not reachable" };
        rows.push(("Peer", format!("{}: {reachable}{network}", peer.node)));
    }
    for (node, bytes) in volume.dirty_bytes.iter().filter(|(_, bytes)| **bytes > 0) {
        rows.push(("Owed", format!("{} to {node}", show_bytes(*bytes))));
    }
    if volume.resync.active {
        rows.push(("Resync", resync(&volume.resync)));
    } else if volume.resync.bytes_copied_total + volume.resync.bytes_compared_total > 0 {
        let (copied, compared) = (volume.resync.bytes_copied_total, volume.resync.bytes_compared_total);
        rows.push(("Resynced", format!("{} copied, {} compared", show_bytes(copied), show_bytes(compared))));
    }
    if let Some(verify) = &volume.verify {
        rows.push(("Verify", self::verify(verify)));
    }
    if let Some(grants) = &volume.grants {
        grants_rows(grants, &mut rows);
    }
    if let Some(reason) = &volume.configuration_trouble {
        rows.push(("Configuration", format!("cannot change: {reason}")));
    }
    if let Some(reason) = &volume.api_server_trouble {
        rows.push(("API server", reason.clone()));
    }
    if let Some(gap) = volume.last_gap_ms {
        rows.push(("Last gap", format!("{gap} ms")));
    }
    let now_ms = boot_clock_ms();
    for event in volume.events.iter().rev().take(5).rev() {
        let age = Duration::from_millis(now_ms.saturating_sub(event.at_ms) / 100 * 100);
        rows.push(("Event", format!("{} ago: {}", humantime::format_duration(age), event.text)));
    }
    let mut out = String::new();
    for (name, value) in rows {
        out.push_str(&format!("{name:<14} {value}\n"));
    }
    out
}

fn arbiter(volume: &view::Volume) -> (&'static str, String) {
    let policing = match volume.policing_shards {
        None => String::new(),
        Some(1) => ", and a Lease says who may write".to_owned(),
        Some(shards) => format!(", and {shards} Leases say who may write where"),
    };
    match volume.arbiter {
        "lease" => ("Arbiter", format!("a Kubernetes Lease{policing}")),
        _ => ("Voters", list(&volume.voters)),
    }
}

/// Ranges of each list that are shown; JSON has them all.
const RANGES_SHOWN: usize = 6;

fn grants_rows(grants: &view::Grants, rows: &mut Vec<(&'static str, String)>) {
    // The granting node knows who holds what; every other one only its own part.
    let holders = if grants.all.is_empty() { &grants.held } else { &grants.all };
    for range in holders.iter().take(RANGES_SHOWN) {
        rows.push(("May write", format!("{}: {}", range.node, show_range(range.offset_bytes, range.length_bytes))));
    }
    if holders.len() > RANGES_SHOWN {
        rows.push(("", format!("... and {} more ranges: see --output json", holders.len() - RANGES_SHOWN)));
    }
    for (place, writer) in grants.waiting.iter().take(RANGES_SHOWN).enumerate() {
        let range = show_range(writer.offset_bytes, writer.length_bytes);
        let text = format!(
            "{}. {} for {range}, {} for {:.1} ms",
            place + 1,
            writer.node,
            writer.class,
            writer.waited_us as f64 / 1000.0
        );
        rows.push(("Waiting", text));
    }
    if grants.waiting.len() > RANGES_SHOWN {
        rows.push(("", format!("... and {} more", grants.waiting.len() - RANGES_SHOWN)));
    }
    for shard in &grants.shards {
        let range = show_range(shard.offset_bytes, shard.length_bytes);
        let holder = shard.holder.as_deref().unwrap_or("nobody");
        let trouble = shard.trouble.as_ref().map_or_else(String::new, |reason| format!("; {reason}"));
        rows.push(("Shard", format!("{}: {range}, held by {holder}{trouble}", shard.shard)));
    }
    let waits = format!(
        "{} granted, {} given back; waited p50 {}, p99 {}, at most {} µs",
        grants.taken, grants.given, grants.wait_p50_us, grants.wait_p99_us, grants.wait_max_us
    );
    rows.push(("Grants", waits));
}

fn show_range(offset: u64, length: u64) -> String {
    format!("{} at {}", show_bytes(length), show_bytes(offset))
}

/// The clock of the events. An agent is asked on its own machine, so that it is the same here.
fn boot_clock_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |now| now.tv_sec().unsigned_abs() * 1000 + now.tv_nsec().unsigned_abs() / 1_000_000)
}

fn replicas(volume: &view::Volume) -> String {
    let show = |replica: &view::Replica| {
        let state = match (replica.in_sync, replica.joining) {
            (true, _) => "in sync",
            (false, true) => "joining",
            (false, false) => "away",
        };
        format!("{} {state}", replica.node)
    };
    volume.replicas.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn this_node(this: &view::ThisNode) -> String {
    let mut text = format!("{}: {}, disk {}", this.node, this.role, this.disk);
    if let Some(reason) = &this.reason {
        text.push_str(&format!(" ({reason})"));
    }
    text.push_str(&match this.attached {
        "none" => ", not attached".to_owned(),
        mode => {
            let place = this.device.as_deref().or(this.socket.as_deref()).unwrap_or("no device");
            format!(", attached {mode} by {} at {place}", this.front_end)
        }
    });
    text
}

fn resync(resync: &view::Resync) -> String {
    let mut text = format!("{} of {}", show_bytes(resync.bytes_done), show_bytes(resync.bytes_total));
    text.push_str(&format!(", {}/s", show_bytes(resync.bytes_per_second)));
    if let Some(seconds) = resync.seconds_left {
        text.push_str(&format!(", {seconds} s left"));
    }
    text
}

/// The result of a comparison.
pub(super) fn verify(verify: &view::Verify) -> String {
    let mut text = match (verify.done, verify.bytes_different) {
        (false, _) => format!("{} of {} compared", show_bytes(verify.bytes_done), show_bytes(verify.bytes_total)),
        (true, 0) => format!("{} compared, the replicas are identical", show_bytes(verify.bytes_total)),
        (true, different) => format!(
            "{} compared, {} differ, {} repaired",
            show_bytes(verify.bytes_total),
            show_bytes(different),
            show_bytes(verify.bytes_repaired),
        ),
    };
    for difference in &verify.differences {
        let (offset, length) = (difference.offset_bytes, show_bytes(difference.length_bytes));
        text.push_str(&format!("\n  node {} differs at byte {offset}, {length}", difference.node));
    }
    text
}

/// The device or socket, alone on its line: `mkfs $(lockstep volume attach v1)`.
pub(super) fn attachment(attachment: &view::Attachment) -> String {
    attachment.device.clone().or_else(|| attachment.socket.clone()).unwrap_or_default()
}

/// A node.
pub(super) fn node(node: &view::Node) -> String {
    let engine = match (&node.engine_reason, node.engine_ready) {
        (_, true) => format!("ready, incarnation {}", node.incarnation),
        (reason, false) => format!("not ready: {}", reason.as_deref().unwrap_or("unknown")),
    };
    let mut out = format!("Node           {} (id {}, cluster {})\n", node.node, node.node_id, node.cluster);
    out.push_str(&format!("Version        {}\nEngine         {engine}\n", node.version));
    match &node.pool {
        Some(pool) => out.push_str(&format!("Pool           {}\n", self::pool(pool))),
        None => out.push_str("Pool           none\n"),
    }
    if let Some(port) = node.metrics_port {
        out.push_str(&format!("Metrics        http://127.0.0.1:{port}/metrics\n"));
    }
    for other in &node.nodes {
        let dedicated = other.dedicated.as_deref().map_or_else(String::new, |place| format!(", dedicated {place}"));
        out.push_str(&format!("Address        {}: {}:{}{dedicated}\n", other.node, other.address, other.port));
    }
    out
}

/// A pool.
pub(super) fn pool(pool: &view::Pool) -> String {
    if !pool.ready {
        return format!("not ready: {}", pool.reason.as_deref().unwrap_or("unknown"));
    }
    let device = pool.device.as_deref().map_or_else(String::new, |device| format!(" on {device}"));
    format!("{}{device}, {} free of {}", pool.path, show_bytes(pool.free_bytes), show_bytes(pool.size_bytes))
}

/// The processes of a playground.
pub(super) fn playground(nodes: &[NodeState]) -> String {
    let mut table = table(&["NODE", "SUPERVISOR", "WORKER", "AGENT", "HOLDER"]);
    for node in nodes {
        let show = |observed: Observed, pid: Option<i32>| {
            let word = match observed {
                Observed::Running => "running",
                Observed::Paused => "paused",
                Observed::Exited => "exited",
                Observed::Stopped => "stopped",
            };
            pid.map_or_else(|| word.to_owned(), |pid| format!("{word} ({pid})"))
        };
        table.add_row([
            node.node.clone(),
            show(node.supervisor, node.pids.supervisor),
            show(node.worker, node.pids.worker),
            show(node.agent, node.pids.agent),
            show(node.holder, node.pids.holder),
        ]);
    }
    table.to_string()
}
