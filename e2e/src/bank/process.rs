//! The process that commits, and the side that keeps what it acknowledged.

use super::transfer::{ACCOUNTS, BALANCE_FIRST, Transfer};
use crate::command;
use anyhow::{Context, Result, bail};
use rusqlite::Connection;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Where and how the process runs.
#[derive(Clone, Copy, Debug)]
pub struct BankStart<'a> {
    /// A program that calls [`serve`] with the two arguments `DATABASE SEED` that are appended to `arguments`.
    pub program: &'a Path,
    /// What comes before them.
    pub arguments: &'a [&'a str],
    /// The database, on the volume.
    pub database: &'a Path,
    /// What all transfers follow from.
    pub seed: u64,
}

#[derive(Default)]
struct Acknowledged {
    transfers: Vec<(i64, Instant)>,
    end: Option<String>,
}

/// A running workload. Dropping it kills the process and does not wait: it may hang in a dead file system.
pub struct Bank {
    child: Child,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

impl Bank {
    /// Starts the process.
    pub fn start(start: BankStart<'_>) -> Result<Self> {
        let mut child = Command::new(start.program)
            .args(start.arguments)
            .arg(start.database)
            .arg(start.seed.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the transactions")?;
        let lines = BufReader::new(child.stdout.take().context("the child has a standard output")?).lines();
        let acknowledged = Arc::<Mutex<Acknowledged>>::default();
        let kept = acknowledged.clone();
        thread::spawn(move || {
            for line in lines.map_while(std::io::Result::ok) {
                let now = Instant::now();
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                match line.strip_prefix("ack ").and_then(|id| id.parse().ok()) {
                    Some(id) => kept.transfers.push((id, now)),
                    None => kept.end = Some(line),
                }
            }
        });
        Ok(Bank { child, acknowledged })
    }

    /// How many commits were acknowledged.
    pub fn count(&self) -> u64 {
        self.lock().transfers.len() as u64
    }

    /// The number of the last transfer that was acknowledged.
    pub fn last(&self) -> Option<(i64, Instant)> {
        self.lock().transfers.last().copied()
    }

    /// When the first acknowledgement after `from` came.
    pub fn first_after(&self, from: Instant) -> Option<Instant> {
        self.lock().transfers.iter().map(|(_, at)| *at).find(|at| *at >= from)
    }

    /// The longest time without an acknowledgement between the last one before `from` and the last one of all.
    pub fn longest_gap_since(&self, from: Instant) -> Duration {
        let kept = self.lock();
        let gaps = kept.transfers.windows(2).filter(|pair| pair[1].1 >= from).map(|pair| pair[1].1 - pair[0].1);
        gaps.max().unwrap_or_default()
    }

    /// Why the process ended by itself, if it did.
    pub fn end(&self) -> Option<String> {
        self.lock().end.clone()
    }

    /// Ends the process between two transactions or in one, and waits until its last word has been read.
    pub fn stop(mut self, bound: Duration) -> Result<Option<i64>> {
        self.child.kill().context("kill the transactions")?;
        if command::wait_bounded(&mut self.child, bound)?.is_none() {
            bail!("the transactions' process does not end: it hangs in the file system");
        }
        Ok(self.last().map(|(id, _)| id))
    }

    fn lock(&self) -> MutexGuard<'_, Acknowledged> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        // Already ended: nothing to do. Hanging: the kernel ends it when its file system does.
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}

/// The process itself: commits transfers until an error, which is its last line. Prints `ack ID` after each.
pub fn serve(database: &Path, seed: u64) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let ended = commit_for_ever(database, seed, &mut stdout);
    // The parent may be gone: then nobody wants the reason.
    let _ = writeln!(stdout, "end {:#}", ended.as_ref().err().map_or_else(|| "by itself".into(), ToString::to_string));
    ended
}

fn commit_for_ever(database: &Path, seed: u64, acknowledgements: &mut impl Write) -> Result<()> {
    let mut connection = open(database)?;
    let mut id: i64 = connection
        .query_row("SELECT coalesce(max(id), 0) FROM transfers", [], |row| row.get(0))
        .context("find the last transfer")?;
    loop {
        id += 1;
        commit(&mut connection, &Transfer::of(seed, id)).with_context(|| format!("commit transfer {id}"))?;
        writeln!(acknowledgements, "ack {id}").context("acknowledge")?;
        acknowledgements.flush().context("acknowledge")?;
    }
}

/// Opens with a durable commit: a write-ahead log that is synced before a commit returns, its index not in a mapped file
/// (a page of a dead file system would be a signal rather than an error).
pub(super) fn open(database: &Path) -> Result<Connection> {
    let connection = Connection::open(database).with_context(|| format!("open {}", database.display()))?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE").context("lock for one process")?;
    connection.pragma_update(None, "journal_mode", "WAL").context("use a write-ahead log")?;
    connection.pragma_update(None, "synchronous", "FULL").context("sync every commit")?;
    connection
        .execute_batch(&format!(
            "BEGIN;
             CREATE TABLE IF NOT EXISTS accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS transfers(id INTEGER PRIMARY KEY, source INTEGER NOT NULL,
                 target INTEGER NOT NULL, amount INTEGER NOT NULL, payload BLOB NOT NULL);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS} - 1)
                 INSERT OR IGNORE INTO accounts SELECT i, {BALANCE_FIRST} FROM n;
             COMMIT;"
        ))
        .context("make the tables")?;
    Ok(connection)
}

fn commit(connection: &mut Connection, transfer: &Transfer) -> rusqlite::Result<()> {
    let Transfer { id, source, target, amount, payload } = transfer;
    let transaction = connection.transaction()?;
    transaction.execute("UPDATE accounts SET balance = balance - ?2 WHERE id = ?1", (source, amount))?;
    transaction.execute("UPDATE accounts SET balance = balance + ?2 WHERE id = ?1", (target, amount))?;
    transaction.execute("INSERT INTO transfers VALUES (?1, ?2, ?3, ?4, ?5)", (id, source, target, amount, payload))?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::{commit, open};
    use crate::bank::{Transfer, check};
    use rusqlite::Connection;

    #[test]
    fn acknowledged_transfers_are_found_and_a_lost_one_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("bank.db");
        let mut connection = open(&database).unwrap();
        for id in 1..=20 {
            commit(&mut connection, &Transfer::of(5, id)).unwrap();
        }
        drop(connection);
        let checked = check(&database, 5, 20).unwrap();
        assert_eq!((checked.transfers, checked.unacknowledged), (20, 0));
        assert_eq!(check(&database, 5, 18).unwrap().unacknowledged, 2);
        assert!(check(&database, 5, 21).is_err(), "transfer 21 was never made");
        assert!(check(&database, 6, 20).is_err(), "other contents");

        let connection = Connection::open(&database).unwrap();
        connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 3", []).unwrap();
        drop(connection);
        assert!(check(&database, 5, 20).is_err(), "a balance that no transfer explains");
    }
}
