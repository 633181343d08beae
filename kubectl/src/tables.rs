//! Results as people read them.

use comfy_table::{Table, presets};

use crate::view::{Node, NodeDetails, Overview, Part, Volume, VolumeDetails};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

/// Bytes with a unit, rounded down to tenths.
pub(crate) fn bytes(count: i64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if count >= 1 << shift {
            let tenths = (i128::from(count) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{count} B")
}

/// Seconds as `1 h 5 min` and the like.
fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

pub(crate) fn nodes(all: &[Node]) -> String {
    let mut table = table(&["NODE", "READY", "ENGINE", "CAPACITY", "FREE", "REPLICAS", "ATTACHED", "ADDRESS", "HEARD"]);
    for node in all {
        let ready = match (node.ready, node.cordoned, node.evicting) {
            (_, _, true) => "evicting",
            (_, true, _) => "cordoned",
            (true, ..) => "yes",
            (false, ..) => "no",
        };
        table.add_row([
            node.node.clone(),
            ready.to_owned(),
            if node.engine_ready { "yes" } else { "no" }.to_owned(),
            bytes(node.capacity_bytes),
            bytes(node.free_bytes),
            node.replicas.to_string(),
            node.attached.to_string(),
            node.address.clone(),
            node.heard.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.to_string()
}

pub(crate) fn volumes(all: &[Volume]) -> String {
    if all.is_empty() {
        return "no volumes".to_owned();
    }
    let mut table = table(&["VOLUME", "CLAIM", "STATE", "IN SYNC", "SIZE", "WRITERS", "RESYNC"]);
    for volume in all {
        table.add_row([
            volume.volume.clone(),
            volume.claim.clone().unwrap_or_else(|| "-".to_owned()),
            volume.state.clone(),
            volume.in_sync.clone(),
            bytes(volume.size_bytes),
            list(&volume.writers),
            volume.resync.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.to_string()
}

pub(crate) fn overview(overview: &Overview) -> String {
    let mut out = nodes(&overview.nodes);
    let states: Vec<String> =
        overview.volumes_by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    out.push_str(&format!("\n\nVolumes: {}\n", if states.is_empty() { "none".to_owned() } else { states.join(", ") }));
    for node in overview.nodes.iter().filter(|node| !node.trouble.is_empty()) {
        out.push_str(&format!("\nnode {}: {}", node.node, node.trouble.join("; ")));
    }
    if !overview.troubled.is_empty() {
        out.push_str(&format!("\n{}\n", volumes(&overview.troubled)));
        for volume in overview.troubled.iter().filter(|volume| !volume.trouble.is_empty()) {
            out.push_str(&format!("\n{}: {}", volume.volume, volume.trouble.join("; ")));
        }
    }
    out
}

fn parts(all: &[Part]) -> String {
    let mut table = table(&["VOLUME", "NODE", "ROLE", "PHASE", "DISK", "IN SYNC", "ATTACHED", "MESSAGE"]);
    for part in all {
        table.add_row([
            part.volume.clone(),
            part.node.clone(),
            part.role.clone(),
            part.phase.clone(),
            part.disk.clone().unwrap_or_else(|| "-".to_owned()),
            if part.in_sync { "yes" } else { "no" }.to_owned(),
            part.attached.clone().unwrap_or_else(|| "-".to_owned()),
            part.message.clone(),
        ]);
    }
    table.to_string()
}

pub(crate) fn volume(details: &VolumeDetails) -> String {
    let volume = &details.volume;
    let mut rows = vec![
        ("Volume", format!("{} ({})", volume.volume, details.id.as_deref().unwrap_or("no identity yet"))),
        ("Claim", volume.claim.clone().unwrap_or_else(|| "-".to_owned())),
        ("State", format!("{}, {} in sync, epoch {}", volume.state, volume.in_sync, details.epoch)),
        ("Size", bytes(volume.size_bytes)),
        ("Arbiter", details.arbiter.clone().unwrap_or_else(|| "not chosen yet".to_owned())),
        ("Policing", details.policing.clone()),
        ("Writers", list(&volume.writers)),
    ];
    if let Some(resync) = details.live.as_ref().map(|live| &live["resync"]).filter(|resync| resync["active"] == true) {
        let number = |name: &str| resync[name].as_i64().unwrap_or(0);
        let left =
            resync["seconds_left"].as_u64().map_or_else(String::new, |left| format!(", {} left", duration(left)));
        let (done, total, rate) = (number("bytes_done"), number("bytes_total"), number("bytes_per_second"));
        rows.push(("Resync", format!("{} of {}, {}/s{left}", bytes(done), bytes(total), bytes(rate))));
    }
    if let Some(last) = &details.last_fail_over {
        let text = |name: &str| last[name].as_str().unwrap_or("?").to_owned();
        rows.push(("Last fail-over", format!("{} from {}: {}", text("at"), text("from"), text("reason"))));
    }
    for trouble in &volume.trouble {
        rows.push(("Trouble", trouble.clone()));
    }
    if let Some(trouble) = &details.live_trouble {
        rows.push(("Live figures", format!("none: {trouble}")));
    }
    let mut table = table(&[]);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    format!("{table}\n\n{}", parts(&details.parts))
}

pub(crate) fn node(details: &NodeDetails) -> String {
    let mut out = nodes(std::slice::from_ref(&details.node));
    for trouble in &details.node.trouble {
        out.push_str(&format!("\nTrouble: {trouble}"));
    }
    if let Some(trouble) = &details.live_trouble {
        out.push_str(&format!("\nLive figures: none: {trouble}"));
    }
    if let Some(dedicated) = &details.node.dedicated_address {
        out.push_str(&format!("\nDedicated network: {dedicated}"));
    }
    out.push_str(&format!("\n\n{}", parts(&details.parts)));
    out
}
