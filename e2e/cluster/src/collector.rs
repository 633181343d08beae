//! Counts, outside the cluster, what writers in pods were told is safe: a dead node takes its pods' output along.
//!
//! A writer connects by TCP and sends lines: `found <last> <damaged>` when it has read its ledger, `ack <number>` for each record
//! that is durable, `error <text>` when a write failed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::wait::until;

/// One connection of a writer: one life of its pod.
#[derive(Clone, Debug)]
pub struct Life {
    /// When it said what it found.
    pub started: Instant,
    /// The last record that it found.
    pub found: u64,
    /// Records that it missed.
    pub damaged: u64,
    /// The first and the last record that it wrote.
    pub acknowledged: Option<(u64, u64)>,
    /// When the first was durable.
    pub first_ack: Option<Instant>,
    /// When the last was durable.
    pub last_ack: Option<Instant>,
    /// The longest time between two.
    pub longest_gap: Duration,
    /// What failed.
    pub errors: Vec<String>,
}

/// Lives by writer, in order.
type Lives = Arc<Mutex<BTreeMap<String, Vec<Life>>>>;

/// Listens until the program ends.
#[derive(Clone, Debug)]
pub struct Collector {
    /// Where writers report.
    pub address: SocketAddr,
    lives: Lives,
}

impl Collector {
    /// Listens at an address of this machine that pods reach.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start(host: std::net::IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).with_context(|| format!("listen at {host}"))?;
        let address = listener.local_addr()?;
        let lives: Lives = Arc::default();
        let shared = Arc::clone(&lives);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let lives = Arc::clone(&shared);
                std::thread::spawn(move || follow(stream, &lives));
            }
        });
        Ok(Self { address, lives })
    }

    /// All lives of a writer so far.
    #[must_use]
    pub fn lives(&self, writer: &str) -> Vec<Life> {
        self.lives.lock().expect("no holder panics").get(writer).cloned().unwrap_or_default()
    }

    /// Waits until life number `life` (from 0) of a writer has written a record.
    ///
    /// # Errors
    /// It has not within `limit`.
    pub fn wait_writing(&self, writer: &str, life: usize, limit: Duration) -> Result<Life> {
        until(limit, &format!("life {life} of writer {writer} writes"), || {
            Ok(self.lives(writer).get(life).filter(|life| life.acknowledged.is_some()).cloned())
        })
    }

    /// Waits until the last life of a writer has written `more` records more than now.
    ///
    /// # Errors
    /// It has not within `limit`.
    pub fn wait_progress(&self, writer: &str, more: u64, limit: Duration) -> Result<()> {
        let last = |lives: &[Life]| lives.last().and_then(|life| life.acknowledged).map_or(0, |(_, last)| last);
        let before = last(&self.lives(writer));
        until(limit, &format!("writer {writer} writes {more} records more"), || {
            Ok((last(&self.lives(writer)) >= before + more).then_some(()))
        })
    }

    /// Begins to measure the longest gap of a writer's last life anew.
    pub fn forget_gap(&self, writer: &str) {
        let mut all = self.lives.lock().expect("no holder panics");
        if let Some(life) = all.get_mut(writer).and_then(|lives| lives.last_mut()) {
            life.longest_gap = Duration::ZERO;
        }
    }

    /// Checks that nothing that a writer was told is safe was missing in any later life of it.
    ///
    /// # Errors
    /// Something was; or a write failed.
    pub fn check_nothing_lost(&self, writer: &str) -> Result<()> {
        let mut safe = 0;
        for (number, life) in self.lives(writer).iter().enumerate() {
            if life.found < safe || life.damaged > 0 {
                bail!(
                    "life {number} of writer {writer} found records up to {} with {} missing; {safe} were acknowledged",
                    life.found,
                    life.damaged
                );
            }
            safe = life.acknowledged.map_or(safe, |(_, last)| last);
        }
        Ok(())
    }
}

fn follow(stream: TcpStream, lives: &Lives) {
    let mut lines = BufReader::new(stream).lines().map_while(std::io::Result::ok);
    let Some(writer) = lines.next() else { return };
    let mut index = None;
    for line in lines {
        let mut words = line.split_whitespace();
        let mut all = lives.lock().expect("no holder panics");
        let of_writer = all.entry(writer.clone()).or_default();
        match (words.next(), index) {
            (Some("found"), _) => {
                let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                index = Some(of_writer.len());
                of_writer.push(Life {
                    started: Instant::now(),
                    found: number(),
                    damaged: number(),
                    acknowledged: None,
                    first_ack: None,
                    last_ack: None,
                    longest_gap: Duration::ZERO,
                    errors: Vec::new(),
                });
            }
            (Some("ack"), Some(index)) => {
                let life = &mut of_writer[index];
                let Some(number) = words.next().and_then(|word| word.parse().ok()) else { continue };
                let now = Instant::now();
                if let Some(last) = life.last_ack {
                    life.longest_gap = life.longest_gap.max(now - last);
                }
                life.first_ack.get_or_insert(now);
                life.last_ack = Some(now);
                life.acknowledged = Some((life.acknowledged.map_or(number, |(first, _)| first), number));
            }
            (Some("error"), Some(index)) => of_writer[index].errors.push(line.clone()),
            _ => {}
        }
    }
}
