//! Kills and pauses real engines under a recording load, and judges every block's history.

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use lockstep_e2e::cleanup::{Cleanup, Scratch};
use lockstep_e2e::soak::{FrontEnd, SoakOptions, run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Rounds of SIGKILL, SIGSTOP and clean stops of a random node under a recording load.
#[derive(Parser)]
#[command(about)]
struct Arguments {
    /// How many rounds, for each number of replicas.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// No new round after this time.
    #[arg(long)]
    seconds: Option<u64>,
    /// Two or three; both, one after the other, if not given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=3))]
    replicas: Option<u8>,
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
    for replicas in &counts {
        println!("seed {seed}, {replicas} replicas (repeat with --seed {seed} --replicas {replicas})");
        let home = Scratch::make(&parent, "lockstep-soak-", &cleanup)?;
        let options = SoakOptions {
            dir: &home.path().join("playground"),
            rounds: arguments.rounds,
            // The time is that of the whole command.
            time: arguments
                .seconds
                .map(|seconds| Duration::from_secs(seconds) / u32::try_from(counts.len()).unwrap_or(1)),
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
