//! The rounds: every load on every target, interleaved, so that what the machine does besides hits all of them alike.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::case::{Case, Sample, run_fio, run_floor};
use super::figures::Figures;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// One preallocated file on the same file system.
    RawFile,
    /// Both files and a round trip, nothing else.
    Floor,
    /// qemu-storage-daemon.
    Qemu,
    /// Lockstep, its FUSE by `/dev/fuse`.
    Lockstep,
    /// Lockstep, its FUSE over io_uring.
    LockstepUring,
}

impl Subject {
    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Subject::RawFile => "raw file",
            Subject::Floor => "two-file floor",
            Subject::Qemu => "qemu",
            Subject::Lockstep => "lockstep",
            Subject::LockstepUring => "lockstep, io_uring",
        }
    }
}

/// Where the replicas lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Series {
    /// Both on the one disk.
    OneDisk,
    /// The peer's on tmpfs: shows the engine rather than the disk.
    PeerOnTmpfs,
}

impl Series {
    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Series::OneDisk => "both replicas on one disk",
            Series::PeerOnTmpfs => "peer on tmpfs",
        }
    }
}

/// How a subject is reached.
pub enum Access {
    /// A file or a device for fio.
    Fio(PathBuf),
    /// Two files for the program of the floor.
    Floor {
        /// The program.
        program: PathBuf,
        /// The local file and the peer's.
        files: [PathBuf; 2],
    },
}

/// One subject, set up and written once.
pub struct Target {
    /// What it is.
    pub subject: Subject,
    /// Where its replicas lie.
    pub series: Series,
    /// How it is reached.
    pub access: Access,
}

impl Target {
    fn runs(&self, case: Case) -> bool {
        let writes = matches!(case, Case::Mix | Case::RandomWriteFsync1) || case.is_plain_write();
        match (&self.access, self.series) {
            (Access::Floor { .. }, _) => case.is_plain_write(),
            // Reads do not touch the peer.
            (Access::Fio(_), Series::PeerOnTmpfs) => writes,
            (Access::Fio(_), Series::OneDisk) => true,
        }
    }

    fn run(&self, case: Case, duration: Duration) -> Result<Sample> {
        match &self.access {
            Access::Fio(path) => run_fio(case, path, duration),
            Access::Floor { program, files: [local, peer] } => run_floor(program, case, [local, peer], duration),
        }
    }
}

/// Names a column of samples.
pub type Key = (Series, Case, Subject);

/// The samples of all rounds.
#[derive(Default)]
pub struct Comparison {
    samples: BTreeMap<Key, Vec<Sample>>,
}

impl Comparison {
    /// Runs all rounds. `say` is told what runs.
    pub fn run(
        targets: &[Target],
        cases: &[Case],
        rounds: usize,
        duration: Duration,
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let mut comparison = Comparison::default();
        for round in 0..rounds {
            for case in cases.iter().copied() {
                say(&format!("round {} of {rounds}: {}", round + 1, case.name()));
                // Each round begins with another target: none always has the disk's cache as the one before left it.
                for index in 0..targets.len() {
                    let target = &targets[(index + round) % targets.len()];
                    if !target.runs(case) {
                        continue;
                    }
                    let sample = target
                        .run(case, duration)
                        .with_context(|| format!("{}, {}", target.subject.name(), target.series.name()))?;
                    comparison.samples.entry((target.series, case, target.subject)).or_default().push(sample);
                }
            }
        }
        Ok(comparison)
    }

    /// All columns that have samples, in the order of the report.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.samples.keys().copied()
    }

    /// The samples of a column, by round.
    pub fn samples(&self, key: Key) -> &[Sample] {
        self.samples.get(&key).map_or(&[], Vec::as_slice)
    }

    /// One figure of a column, by round.
    pub fn figures(&self, key: Key, figure: fn(&Sample) -> f64) -> Figures {
        self.samples(key).iter().map(figure).collect()
    }

    /// The figure by which a load is compared: mean latency at depth 1, else the rate. As its ratio to `base` in each
    /// round.
    pub fn ratios(&self, series: Series, case: Case, own: Subject, base: Subject) -> Figures {
        let figure = if case.is_latency() { |it: &Sample| it.mean_us } else { |it: &Sample| it.iops };
        self.figures((series, case, own), figure).ratios(&self.figures((series, case, base), figure))
    }

    /// Ratios of the machine's busy time per request.
    pub fn cpu_ratios(&self, series: Series, case: Case, own: Subject, base: Subject) -> Figures {
        let figure = |it: &Sample| it.cpu_us_per_request;
        self.figures((series, case, own), figure).ratios(&self.figures((series, case, base), figure))
    }
}

/// A program that is built as an example of a crate.
pub fn find_example(name: &str, variable: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running executable")?;
    let beside = own.parent().map(|directory| directory.join("examples").join(name)).unwrap_or_default();
    if beside.is_file() {
        return Ok(beside);
    }
    crate::playground::built_program(name, variable)
}

/// Makes a file of `bytes` and writes all of it once: first touch of a hole allocates, which is not what is measured.
pub fn written_file(path: &Path, bytes: u64) -> Result<()> {
    std::fs::File::create(path)
        .and_then(|file| file.set_len(bytes))
        .with_context(|| format!("make {}", path.display()))?;
    write_once(path)
}

/// Writes all of a file or device once, in large pieces, and flushes.
pub fn write_once(path: &Path) -> Result<()> {
    let mut fio = std::process::Command::new("fio");
    fio.arg("--name=fill").arg(format!("--filename={}", path.display())).args([
        "--direct=1",
        "--ioengine=io_uring",
        "--rw=write",
        "--bs=1M",
        "--iodepth=4",
        "--end_fsync=1",
        "--output-format=terse",
    ]);
    crate::command::run_ok(&mut fio).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::{Case, Comparison, Sample, Series, Subject};

    fn sample(iops: f64) -> Sample {
        Sample { iops, bytes_per_second: 0.0, mean_us: 1e6 / iops, p99_us: 0.0, cpu_us_per_request: 1.0 }
    }

    #[test]
    fn depth_one_is_compared_by_latency_and_the_rest_by_rate() {
        let mut comparison = Comparison::default();
        for case in [Case::RandomWrite1, Case::RandomWrite32] {
            for (subject, iops) in [(Subject::Lockstep, 200.0), (Subject::Qemu, 100.0)] {
                comparison.samples.insert((Series::OneDisk, case, subject), vec![sample(iops)]);
            }
        }
        let median = |case| comparison.ratios(Series::OneDisk, case, Subject::Lockstep, Subject::Qemu).median();
        assert_eq!((median(Case::RandomWrite1), median(Case::RandomWrite32)), (Some(0.5), Some(2.0)));
    }
}
