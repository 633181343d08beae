//! `make bench`: measures, prints the tables and writes the JSON beside them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use lockstep_e2e::bench::case::Case;
use lockstep_e2e::bench::levels::{Line, of_comparison};
use lockstep_e2e::bench::report::Report;
use lockstep_e2e::bench::throughput::{self, Extent};
use lockstep_e2e::bench::{faults, leases, machine, promises, resync, sharing};
use lockstep_e2e::cleanup::{Cleanup, Scratch};

/// Measures Lockstep against the raw disk, the floor of two files, and qemu-storage-daemon.
#[derive(Parser)]
struct Options {
    /// How thoroughly: full is what the levels are judged by.
    #[arg(long, value_enum, default_value_t = Profile::Full)]
    profile: Profile,
    /// Only these sections.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Section>,
    /// Only these loads.
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<Case>,
    /// Rounds, instead of the profile's.
    #[arg(long)]
    rounds: Option<usize>,
    /// Leaves Lockstep out of the comparison: only what it is measured against.
    #[arg(long)]
    without_lockstep: bool,
    /// Where files and replicas lie: a directory on the disk that is measured.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Where the JSON goes.
    #[arg(long, default_value = "results")]
    results: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Five rounds.
    Full,
    /// One short round of everything: shows that it runs, judges nothing.
    Quick,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Section {
    /// The loads, against qemu and the floors.
    Loads,
    /// Frames of reads, requests at the peer.
    Locality,
    /// A slow link.
    SlowLink,
    /// Memory of the engine.
    Memory,
    /// A peer that was away.
    Resync,
    /// Longest waits.
    Faults,
    /// The writer is killed.
    TakeOver,
    /// Several writers of one volume.
    Sharing,
    /// Lease policing, at a real API server.
    Leases,
}

impl Section {
    const ALL: [Section; 9] = [
        Section::Loads,
        Section::Locality,
        Section::SlowLink,
        Section::Memory,
        Section::Resync,
        Section::Faults,
        Section::TakeOver,
        Section::Sharing,
        Section::Leases,
    ];
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let cleanup = Cleanup::new();
    cleanup.on_signals()?;
    let directory = Scratch::make(&options.dir, "lockstep-bench.", &cleanup)?;
    let start = Instant::now();
    let mut report = Report { machine: machine::description(), ..Report::default() };
    for section in Section::ALL {
        if !options.only.is_empty() && !options.only.contains(&section) {
            continue;
        }
        say(start, &format!("{section:?}"));
        match measure(section, &options, directory.path(), &cleanup, start, &mut report) {
            Ok(lines) => report.lines.extend(lines),
            Err(error) => {
                say(start, &format!("{section:?} failed: {error:#}"));
                report.failures.push((format!("{section:?}"), format!("{error:#}")));
            }
        }
    }
    cleanup.undo_all();
    let path = report.write_json(&options.results)?;
    println!("\n{}", report.text());
    println!("every sample: {}", path.display());
    // A missed level is a result; a section that could not be measured is not.
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(
    section: Section,
    options: &Options,
    directory: &std::path::Path,
    cleanup: &Cleanup,
    start: Instant,
    report: &mut Report,
) -> Result<Vec<Line>> {
    let (bytes, rounds, seconds) = match options.profile {
        Profile::Full => (1 << 30, 5, 3),
        Profile::Quick => (256 << 20, 1, 1),
    };
    let rounds = options.rounds.unwrap_or(rounds);
    let duration = Duration::from_secs(seconds);
    let bed = directory.join(format!("{section:?}").to_lowercase());
    match section {
        Section::Loads => {
            let cases = if options.loads.is_empty() { &Case::ALL[..] } else { &options.loads };
            let extent = Extent { bytes, rounds, duration, cases, with_lockstep: !options.without_lockstep };
            std::fs::create_dir_all(&bed)?;
            report.comparison = throughput::measure(&bed, extent, cleanup, &|what| say(start, what))?;
            Ok(if options.without_lockstep { Vec::new() } else { of_comparison(&report.comparison) })
        }
        Section::Locality => promises::measure_locality(&bed, duration, cleanup),
        Section::SlowLink => promises::measure_slow_link(&bed, rounds, duration, cleanup),
        Section::Memory => promises::measure_memory(&bed, duration, cleanup),
        Section::Resync => resync::measure(&bed, bytes, rounds, cleanup),
        Section::Faults => faults::measure_peer(&bed, rounds, cleanup),
        Section::TakeOver => faults::measure_writer(&bed, rounds, cleanup),
        Section::Sharing => sharing::measure(&bed, rounds, duration, cleanup),
        Section::Leases => leases::measure(),
    }
}

fn say(start: Instant, what: &str) {
    println!("{:>5} s  {what}", start.elapsed().as_secs());
}
