//! A small load whose every request is kept with its times: how long did anyone wait?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::load::{AlignedBuffer, BLOCK_BYTES, Target};
use crate::random::Random;
use crate::wait;

/// How many requests the probe keeps going.
pub const DEPTH: usize = 4;
/// Longer than any wait that is to be measured.
const PROGRESS_BOUND: Duration = Duration::from_secs(30);

/// One write: when it was asked for, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// When it was asked for.
    pub start: Instant,
    /// How long it took.
    pub time: Duration,
}

/// 4 KiB writes at random, [`DEPTH`] at a time, until it is finished.
pub struct Probe {
    stop: Arc<AtomicBool>,
    completed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<Vec<Waited>>>>,
}

impl Probe {
    /// Starts on an attached volume of `blocks` blocks.
    pub fn start(target: &Target, blocks: u64) -> Result<Self> {
        Self::start_within(target, 0, blocks)
    }

    /// Starts on `blocks` blocks of an attached volume from `first` on.
    pub fn start_within(target: &Target, first: u64, blocks: u64) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let completed = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for lane in 0..DEPTH {
            let connection = target.open()?;
            let (stop, completed) = (stop.clone(), completed.clone());
            threads.push(std::thread::spawn(move || {
                let mut random = Random::new(lane as u64 + 1);
                let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
                buffer.bytes_mut().fill(0x77);
                let mut all = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    connection.write((first + random.below(blocks)) * BLOCK_BYTES as u64, buffer.bytes())?;
                    all.push(Waited { start, time: start.elapsed() });
                    completed.fetch_add(1, Ordering::Relaxed);
                }
                Ok(all)
            }));
        }
        Ok(Probe { stop, completed, threads })
    }

    /// Requests completed up to now.
    pub fn requests(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Waits until so many requests are completed.
    pub fn wait_requests(&self, count: u64) -> Result<()> {
        wait::until_true(&format!("{count} requests of the probe"), PROGRESS_BOUND, || {
            if self.threads.iter().any(JoinHandle::is_finished) {
                bail!("the probe met an error");
            }
            Ok(self.requests() >= count)
        })
    }

    /// Stops it; every request that it made. An error of a single request is an error here.
    pub fn finish(self) -> Result<Vec<Waited>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().map_err(|_| anyhow!("a thread of the probe panicked"))??);
        }
        if all.is_empty() {
            bail!("the probe made no request");
        }
        Ok(all)
    }
}

/// The longest time that a request waited, of those that were under way at `from` or began later.
pub fn longest_wait(all: &[Waited], from: Instant) -> Duration {
    all.iter().filter(|it| it.start + it.time >= from).map(|it| it.time).max().unwrap_or_default()
}

/// The 99th percentile of the times.
pub fn p99(all: &[Waited]) -> Duration {
    let mut times: Vec<Duration> = all.iter().map(|it| it.time).collect();
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Waited, longest_wait, p99};
    use std::time::{Duration, Instant};

    #[test]
    fn only_what_was_under_way_or_later_counts() {
        let start = Instant::now();
        let at = |start_ms, time_ms| Waited {
            start: start + Duration::from_millis(start_ms),
            time: Duration::from_millis(time_ms),
        };
        let all = [at(0, 90), at(95, 20), at(200, 5)];
        assert_eq!(longest_wait(&all, start + Duration::from_millis(100)), Duration::from_millis(20));
        assert_eq!(p99(&all), Duration::from_millis(20));
    }
}
