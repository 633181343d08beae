//! Whether the database holds what was acknowledged.

use super::process::open;
use super::transfer::{ACCOUNTS, BALANCE_FIRST, Transfer};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Transfers that are there.
    pub transfers: i64,
    /// Those of them that were never acknowledged: committed, but the answer was lost with the writer.
    pub unacknowledged: i64,
}

/// Opens the database (which replays its log), and checks its structure, every transfer up to `acknowledged` and
/// every balance.
pub fn check(database: &Path, seed: u64, acknowledged: i64) -> Result<Checked> {
    let connection = open(database)?;
    let integrity: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).context("run integrity_check")?;
    ensure!(integrity == "ok", "integrity_check says {integrity}");

    let mut balances: BTreeMap<i64, i64> = (0..ACCOUNTS).map(|account| (account, BALANCE_FIRST)).collect();
    let mut statement = connection
        .prepare("SELECT id, source, target, amount, payload FROM transfers ORDER BY id")
        .context("ask for the transfers")?;
    let rows = statement.query_map([], |row| {
        Ok(Transfer {
            id: row.get(0)?,
            source: row.get(1)?,
            target: row.get(2)?,
            amount: row.get(3)?,
            payload: row.get(4)?,
        })
    })?;
    let mut transfers = 0;
    for found in rows {
        let found = found.context("read a transfer")?;
        transfers += 1;
        ensure!(found.id == transfers, "transfer {transfers} is missing, the next is {}", found.id);
        ensure!(found == Transfer::of(seed, found.id), "transfer {} is not what was committed", found.id);
        *balances.entry(found.source).or_default() -= found.amount;
        *balances.entry(found.target).or_default() += found.amount;
    }
    ensure!(transfers >= acknowledged, "{acknowledged} transfers were acknowledged, {transfers} are there");

    let mut statement = connection.prepare("SELECT id, balance FROM accounts")?;
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found: BTreeMap<i64, i64> = found.collect::<rusqlite::Result<_>>().context("read the balances")?;
    ensure!(found == balances, "balances do not follow from the transfers");
    Ok(Checked { transfers, unacknowledged: transfers - acknowledged })
}
