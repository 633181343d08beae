//! The loads that are compared, as fio runs them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::machine::busy_time;
use crate::command;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// 4 KiB random writes, depth 1.
    RandomWrite1,
    /// The same with an fsync after each.
    RandomWriteFsync1,
    /// 4 KiB random writes, depth 32.
    RandomWrite32,
    /// 4 KiB random reads, depth 1.
    RandomRead1,
    /// 4 KiB random reads, depth 32.
    RandomRead32,
    /// 1 MiB sequential writes, depth 4.
    SequentialWrite,
    /// 1 MiB sequential reads, depth 4.
    SequentialRead,
    /// 70 % reads and 30 % writes of 4 KiB at random, depth 16.
    Mix,
}

impl Case {
    /// In the order of the report.
    pub const ALL: [Case; 8] = [
        Case::RandomWrite1,
        Case::RandomWriteFsync1,
        Case::RandomWrite32,
        Case::RandomRead1,
        Case::RandomRead32,
        Case::SequentialWrite,
        Case::SequentialRead,
        Case::Mix,
    ];

    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Case::RandomWrite1 => "4 KiB random write, depth 1",
            Case::RandomWriteFsync1 => "4 KiB random write + fsync, depth 1",
            Case::RandomWrite32 => "4 KiB random write, depth 32",
            Case::RandomRead1 => "4 KiB random read, depth 1",
            Case::RandomRead32 => "4 KiB random read, depth 32",
            Case::SequentialWrite => "1 MiB sequential write, depth 4",
            Case::SequentialRead => "1 MiB sequential read, depth 4",
            Case::Mix => "4 KiB random 70/30, depth 16",
        }
    }

    /// Bytes of a request.
    pub fn block_bytes(self) -> u64 {
        if self.is_sequential() { 1 << 20 } else { 4096 }
    }

    /// Requests that are kept going.
    pub fn depth(self) -> u32 {
        match self {
            Case::RandomWrite1 | Case::RandomWriteFsync1 | Case::RandomRead1 => 1,
            Case::SequentialWrite | Case::SequentialRead => 4,
            Case::Mix => 16,
            Case::RandomWrite32 | Case::RandomRead32 => 32,
        }
    }

    /// Whether large requests follow each other.
    pub fn is_sequential(self) -> bool {
        matches!(self, Case::SequentialWrite | Case::SequentialRead)
    }

    /// Whether the load is writes and nothing else: what the floor of two files can do.
    pub fn is_plain_write(self) -> bool {
        matches!(self, Case::RandomWrite1 | Case::RandomWrite32 | Case::SequentialWrite)
    }

    /// Whether its figure is a latency; else it is a rate.
    pub fn is_latency(self) -> bool {
        self.depth() == 1
    }

    fn fio_pattern(self) -> &'static [&'static str] {
        match self {
            Case::RandomWrite1 | Case::RandomWrite32 => &["--rw=randwrite"],
            Case::RandomWriteFsync1 => &["--rw=randwrite", "--fsync=1"],
            Case::RandomRead1 | Case::RandomRead32 => &["--rw=randread"],
            Case::SequentialWrite => &["--rw=write"],
            Case::SequentialRead => &["--rw=read"],
            Case::Mix => &["--rw=randrw", "--rwmixread=70"],
        }
    }
}

/// What one run of a load measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Requests completed a second.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Mean time of a request, in microseconds; with fsync, of the write and its fsync together.
    pub mean_us: f64,
    /// 99th percentile of the same (without the fsync), in microseconds.
    pub p99_us: f64,
    /// Busy time of the whole machine per request, in microseconds.
    pub cpu_us_per_request: f64,
}

/// Runs a load with fio on a file or device whose blocks are all written.
pub fn run_fio(case: Case, target: &Path, duration: Duration) -> Result<Sample> {
    let mut fio = Command::new("fio");
    fio.arg("--name=bench")
        .arg(format!("--filename={}", target.display()))
        .args(["--direct=1", "--ioengine=io_uring", "--time_based", "--norandommap", "--randrepeat=0"])
        .arg(format!("--runtime={}ms", duration.as_millis()))
        .arg(format!("--bs={}", case.block_bytes()))
        .arg(format!("--iodepth={}", case.depth()))
        .args(case.fio_pattern())
        .arg("--output-format=json");
    let before = busy_time()?;
    let text = command::run_ok(&mut fio)?;
    let busy = busy_time()?.saturating_sub(before);
    parse_fio(&text, case, busy).with_context(|| format!("fio, {}, {}", case.name(), target.display()))
}

/// Runs the floor: the example `floor` of the engine's crate.
pub fn run_floor(program: &Path, case: Case, files: [&Path; 2], duration: Duration) -> Result<Sample> {
    #[derive(Deserialize)]
    struct Floor {
        requests: f64,
        iops: f64,
        bytes_per_second: f64,
        mean_us: f64,
        p99_us: f64,
    }
    let mut floor = Command::new(program);
    floor
        .args(files)
        .arg(case.block_bytes().to_string())
        .arg(case.depth().to_string())
        .arg(duration.as_secs().max(1).to_string())
        .arg(if case.is_sequential() { "sequential" } else { "random" });
    let before = busy_time()?;
    let text = command::run_ok(&mut floor)?;
    let busy = busy_time()?.saturating_sub(before);
    let floor: Floor = serde_json::from_str(&text).with_context(|| format!("parse {text:?}"))?;
    Ok(Sample {
        iops: floor.iops,
        bytes_per_second: floor.bytes_per_second,
        mean_us: floor.mean_us,
        p99_us: floor.p99_us,
        cpu_us_per_request: micros(busy) / floor.requests.max(1.0),
    })
}

#[derive(Deserialize)]
struct FioOutput {
    jobs: Vec<FioJob>,
}

#[derive(Deserialize)]
struct FioJob {
    error: i64,
    read: FioDirection,
    write: FioDirection,
}

#[derive(Deserialize)]
struct FioDirection {
    total_ios: f64,
    iops: f64,
    bw_bytes: f64,
    lat_ns: FioLatency,
    clat_ns: FioLatency,
}

#[derive(Deserialize)]
struct FioLatency {
    mean: f64,
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, f64>,
}

fn parse_fio(text: &str, case: Case, busy: Duration) -> Result<Sample> {
    // fio prints notes before the JSON at times.
    let start = text.find('{').context("fio printed no JSON")?;
    let output: FioOutput = serde_json::from_str(&text[start..]).context("parse fio's JSON")?;
    let job = output.jobs.first().context("fio ran no job")?;
    if job.error != 0 {
        bail!("fio met error {}", job.error);
    }
    let both = [&job.read, &job.write];
    let total = |field: fn(&FioDirection) -> f64| both.iter().map(|it| field(it)).sum::<f64>();
    let requests = total(|it| it.total_ios);
    if requests == 0.0 {
        bail!("no request completed");
    }
    let iops = total(|it| it.iops);
    let p99_ns = both.iter().filter_map(|it| it.clat_ns.percentile.get("99.000000")).fold(0.0_f64, |a, b| a.max(*b));
    let mean_us = if case == Case::RandomWriteFsync1 {
        1e6 / iops
    } else {
        total(|it| it.lat_ns.mean * it.total_ios) / requests / 1e3
    };
    Ok(Sample {
        iops,
        bytes_per_second: total(|it| it.bw_bytes),
        mean_us,
        p99_us: p99_ns / 1e3,
        cpu_us_per_request: micros(busy) / requests,
    })
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::{Case, parse_fio};
    use std::time::Duration;

    fn direction(ios: u32, mean: u32, p99: u32) -> String {
        format!(
            r#"{{"total_ios":{ios},"iops":{ios},"bw_bytes":1,"lat_ns":{{"mean":{mean}}},
            "clat_ns":{{"mean":1,"percentile":{{"99.000000":{p99}}}}}}}"#
        )
    }

    fn output(error: u32, read: &str, write: &str) -> String {
        format!(r#"note: something {{"jobs":[{{"error":{error},"read":{read},"write":{write}}}]}}"#)
    }

    #[test]
    fn both_directions_count_by_their_requests() {
        let text = output(0, &direction(30, 1000, 7000), &direction(10, 5000, 9000));
        let sample = parse_fio(&text, Case::Mix, Duration::from_micros(80)).unwrap();
        assert_eq!((sample.iops, sample.mean_us, sample.p99_us), (40.0, 2.0, 9.0));
        assert_eq!(sample.cpu_us_per_request, 2.0);
    }

    #[test]
    fn an_error_or_an_empty_run_is_no_sample() {
        let none = direction(0, 0, 0);
        assert!(parse_fio(&output(5, &none, &direction(1, 1, 1)), Case::Mix, Duration::ZERO).is_err());
        assert!(parse_fio(&output(0, &none, &none), Case::Mix, Duration::ZERO).is_err());
    }
}
