//! What Lease policing asks of a real API server. Measured by a program of its own, which brings the API server with it.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};

use super::comparison::find_example;
use super::figures::Figures;
use super::levels::{Level, Line};
use crate::command::run_ok;

/// All of it.
pub fn measure() -> Result<Vec<Line>> {
    let mut program = Command::new(find_example("lease_levels", "LOCKSTEP_LEASE_LEVELS_BIN")?);
    let text = run_ok(&mut program)?;
    let measured: BTreeMap<String, Figures> = serde_json::from_str(&text).with_context(|| format!("parse {text}"))?;
    let figures = |name: &str| measured.get(name).cloned().unwrap_or_default();
    let away = figures("held_while_away_ms");
    Ok(vec![
        Line::promised(
            "100 idle volumes: requests of a node to the API server per renewal (10 s)",
            "",
            figures("idle"),
            Level::AtMost(1.0),
        ),
        Line::promised(
            "requests to the API server per write in a held shard",
            "",
            figures("per_write"),
            Level::AtMost(0.0),
        ),
        Line::shown("transfer of a shard between two writers", "ms", figures("transfer_ms")),
        Line::shown("API server away for 60 s: a write in a held shard", "ms", away.clone()),
        Line::promised(
            "the longest of those",
            "ms",
            away.spread().map(|(_, most)| most).into_iter().collect(),
            Level::AtMost(1000.0),
        ),
        Line::promised(
            "API server back: whoever waited for another's shard has written after",
            "s",
            figures("waiter_after_s"),
            Level::AtMost(10.0),
        ),
    ])
}
