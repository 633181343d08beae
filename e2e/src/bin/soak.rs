//! Kills and pauses real engines under a recording load, and judges every block's history.

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use lockstep_e2e::cleanup::{Cleanup, Scratch};
use lockstep_e2e::soak::{FrontEnd, Limits, SharingOptions, SoakOptions, run, run_sharing};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Rounds, if neither they nor a time are given.
const ROUNDS: u64 = 200;

/// Rounds of SIGKILL, SIGSTOP and clean stops of a random node under a recording load.
#[derive(Parser)]
#[command(about)]
struct Arguments {
    /// How many rounds, for each number of replicas: 200, or as many as the time allows.
    #[arg(long)]
    rounds: Option<u64>,
    /// No new round after this time, which all parts of the run share.
    #[arg(long)]
    seconds: Option<u64>,
    /// Two or three; both, one after the other, if not given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=3))]
    replicas: Option<u8>,
    /// One writer at a time, or a writer on each of three nodes; both, one after the other, if not given.
    #[arg(long)]
    access: Option<AccessName>,
    /// Several writers only: each node in a network namespace of its own, and links between them are cut too.
    #[arg(long)]
    cut_links: bool,
    /// The replicas are compared after so many rounds.
    #[arg(long, default_value_t = 10)]
    compare_every: u64,
    /// Repeats a run's draws.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this front end; both, by chance, if not given.
    #[arg(long)]
    front_end: Option<FrontEndName>,
    /// Where the playground goes; by default a new directory below the system's temporary one.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AccessName {
    SingleWriter,
    MultiWriter,
}

#[derive(Clone, Copy, ValueEnum)]
enum FrontEndName {
    Loop,
    NbdSocket,
}

fn main() -> ExitCode {
    match soak() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe soak failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(seed_of_clock);
    let parent = arguments.dir.unwrap_or_else(std::env::temp_dir);
    let cleanup = Cleanup::new();
    cleanup.on_signals()?;
    let counts: Vec<usize> = arguments.replicas.map_or_else(|| vec![2, 3], |count| vec![usize::from(count)]);
    let accesses = match (arguments.access, arguments.cut_links) {
        (Some(AccessName::SingleWriter), true) => bail!("--cut-links is for --access multi-writer"),
        (Some(access), _) => vec![access],
        (None, true) => vec![AccessName::MultiWriter],
        (None, false) => vec![AccessName::SingleWriter, AccessName::MultiWriter],
    };
    // The time is that of the whole command.
    let parts = u32::try_from(counts.len() * accesses.len()).unwrap_or(1);
    let time = arguments.seconds.map(|seconds| Duration::from_secs(seconds) / parts);
    let limits = Limits { rounds: arguments.rounds.or(time.is_none().then_some(ROUNDS)), time };
    for (access, replicas) in accesses.iter().flat_map(|access| counts.iter().map(move |count| (*access, count))) {
        let name = access.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let cuts = if arguments.cut_links { " --cut-links" } else { "" };
        println!(
            "seed {seed}, {replicas} replicas, {name} (repeat with --seed {seed} --replicas {replicas} --access {name}{cuts})"
        );
        let home = Scratch::make(&parent, "lockstep-soak-", &cleanup)?;
        if access == AccessName::MultiWriter {
            let options = SharingOptions {
                dir: &home.path().join("playground"),
                limits,
                replicas: *replicas,
                cut_links: arguments.cut_links,
                compare_every: arguments.compare_every.max(1),
                seed,
            };
            let summary =
                run_sharing(options, &cleanup).with_context(|| format!("seed {seed}, {replicas} replicas"))?;
            println!("{summary}");
            continue;
        }
        let options = SoakOptions {
            dir: &home.path().join("playground"),
            limits,
            replicas: *replicas,
            compare_every: arguments.compare_every.max(1),
            seed,
            front_end: arguments.front_end.map(|name| match name {
                FrontEndName::Loop => FrontEnd::Loop,
                FrontEndName::NbdSocket => FrontEnd::NbdSocket,
            }),
        };
        let summary = run(options, &cleanup).with_context(|| format!("seed {seed}, {replicas} replicas"))?;
        println!("{summary}");
    }
    Ok(())
}

fn seed_of_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}
