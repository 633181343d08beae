//! What the demo measured.

use super::screen::{bytes, milliseconds, render};
use super::second_act::Shared;
use std::time::Duration;

/// The figures of one run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Longest time between two commits around the peer's death.
    pub peer_death_gap: Duration,
    /// The longest time between two commits before anything was disturbed: what that gap compares with.
    pub undisturbed_gap: Duration,
    /// From the peer's restart until all replicas were in sync.
    pub resync_time: Duration,
    /// What the peer missed, as its source counted it.
    pub changed_bytes: u64,
    /// What was copied to it.
    pub copied_bytes: u64,
    /// What was compared by digest rather than copied.
    pub compared_bytes: u64,
    /// From the writer's SIGKILL until a write on the other node had completed.
    pub first_write_elsewhere: Duration,
    /// From the same moment until a transaction was committed there, journal replayed and database checked.
    pub first_commit_elsewhere: Duration,
    /// Transactions acknowledged before the writer died.
    pub acknowledged: i64,
    /// Of these, found on the other node.
    pub found: i64,
    /// Bytes of each replica that were compared at the end.
    pub compared_replica_bytes: u64,
    /// Of two nodes that write one volume.
    pub shared: Shared,
}

impl Figures {
    /// As a table.
    pub fn table(&self) -> String {
        let ratio = match self.changed_bytes {
            0 => "-".to_owned(),
            changed => format!("{:.3} x", self.copied_bytes as f64 / changed as f64),
        };
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        render(
            &["measured", ""],
            &[
                row("longest gap between commits, undisturbed", milliseconds(self.undisturbed_gap)),
                row("longest gap between commits, peer killed", milliseconds(self.peer_death_gap)),
                row("peer back until in sync", milliseconds(self.resync_time)),
                row("bytes changed while the peer was away", bytes(self.changed_bytes)),
                row("bytes copied by the resync", format!("{} ({ratio})", bytes(self.copied_bytes))),
                row("bytes compared by digest", bytes(self.compared_bytes)),
                row("writer killed until first write elsewhere", milliseconds(self.first_write_elsewhere)),
                row("writer killed until first commit elsewhere", milliseconds(self.first_commit_elsewhere)),
                row("acknowledged transactions / found", format!("{} / {}", self.acknowledged, self.found)),
                row("two writers at once: operations judged", self.shared.judged.to_string()),
                row("two writers at once: ranges that changed hands", self.shared.transfers.to_string()),
                row("two writers at once: longest wait for one", milliseconds(self.shared.longest_wait)),
                row(
                    "all grants moved to the other node",
                    format!("{:.1} ms", self.shared.migration.as_secs_f64() * 1000.0),
                ),
                row("replicas compared byte by byte", format!("{}, identical", bytes(self.compared_replica_bytes))),
            ],
        )
    }
}
