//! A mirrored file system on one machine that loses its peer and its writer, with every acknowledged byte checked.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lockstep_e2e::bank;
use lockstep_e2e::cleanup::{Cleanup, Scratch};
use lockstep_e2e::demo::{Screen, StoryStart, tell};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Shows a mirrored volume lose its peer and its writer, and checks every acknowledged byte.
#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Where the playground goes; by default a new directory below the system's temporary one.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Part {
    /// The process that commits transactions (started by the demo itself).
    #[command(hide = true)]
    Transactions {
        /// The database.
        database: PathBuf,
        /// What the transactions follow from.
        seed: u64,
    },
}

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Transactions { database, seed }) = arguments.part {
        // Its end is told on standard output; the exit code says nothing more.
        return bank::serve(&database, seed).or(Ok(()));
    }
    let parent = arguments.dir.unwrap_or_else(std::env::temp_dir);
    let cleanup = Cleanup::new();
    cleanup.on_signals()?;
    let home = Scratch::make(&parent, "lockstep-demo-", &cleanup)?;
    let screen = Arc::new(Screen::new());
    let own = std::env::current_exe().context("find the running executable")?;
    let start = StoryStart {
        dir: &home.path().join("playground"),
        mounts: &home.path().join("mnt"),
        bank_program: &own,
        bank_arguments: &["transactions"],
    };
    let figures = tell(start, &screen, &cleanup).inspect_err(|_| screen.finish())?;
    println!("\n{}", figures.table());
    Ok(())
}
