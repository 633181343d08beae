//! Real file systems and a real database on a volume whose writer dies under load.

use anyhow::{Context, Result, ensure};
use lockstep_e2e::bank::{self, Bank, BankStart};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::command::{program, run_ok};
use lockstep_e2e::loops::Mounted;
use lockstep_e2e::playground::{Fault, Playground};
use lockstep_e2e::wait;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const VOLUME: &str = "files";
const COMMITS: u64 = 150;
const BOUND: Duration = Duration::from_secs(40);
const SEED: u64 = 99;

fn format(kind: &str, device: &Path) -> Result<()> {
    let options: &[&str] = match kind {
        "xfs" => &["-q", "-f", "-K"],
        _ => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    };
    run_ok(program(&format!("mkfs.{kind}"), options).arg(device)).map(|_| ())
}

fn check_clean(kind: &str, device: &Path) -> Result<()> {
    let mut checker = match kind {
        "xfs" => program("xfs_repair", ["-n"]),
        _ => program("e2fsck", ["-f", "-n"]),
    };
    run_ok(checker.arg(device)).context("the file system is not clean").map(|_| ())
}

fn start_bank(mounted: &Path) -> Result<Bank> {
    Bank::start(BankStart {
        program: Path::new(env!("CARGO_BIN_EXE_demo")),
        arguments: &["transactions"],
        database: &mounted.join("bank.db"),
        seed: SEED,
    })
}

fn wait_commits(bank: &Bank) -> Result<()> {
    let goal = bank.count() + COMMITS;
    wait::until_true("transactions are acknowledged", BOUND, || {
        ensure!(bank.end().is_none(), "the transactions ended: {:?}", bank.end());
        Ok(bank.count() >= goal)
    })
}

/// The writer dies three times, each time in the middle of commits, and the other node goes on.
fn survives_its_writers(kind: &str, mount_options: &[&str]) -> Result<()> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let home = tempfile::Builder::new().prefix("lockstep-files-").tempdir()?;
    let cleanup = Cleanup::new();
    let playground = Playground::start(&home.path().join("playground"), 3, &cleanup)?;
    let nodes = ["a".to_owned(), "b".to_owned()];
    playground.create("a", VOLUME, "512MiB", 2, &["--on", "a,b"])?;
    playground.wait_whole(&nodes, VOLUME)?;
    let attach = |node: &str, options: &[&str]| -> Result<PathBuf> {
        let options: Vec<&str> = ["--front-end", "loop"].iter().chain(options).copied().collect();
        playground.attach(node, VOLUME, &options)?.device.context("attached as a device")
    };
    let mut device = attach("a", &[])?;
    format(kind, &device)?;
    let mut writer = "a";
    for death in 1..=3 {
        let mounted = Mounted::mount(&device, &home.path().join(format!("mnt-{death}")), mount_options, &cleanup)?;
        let bank = start_bank(mounted.path())?;
        wait_commits(&bank)?;
        playground.disturb(writer, Fault::Kill, death == 2)?;
        let successor = if writer == "a" { "b" } else { "a" };
        device = attach(successor, &["--take-over"])?;
        wait::until_true("the dead writer's transactions have ended", BOUND, || Ok(bank.end().is_some()))?;
        let acknowledged = bank.stop(BOUND)?.context("nothing was acknowledged")?;
        drop(mounted);

        let replayed = Mounted::mount(&device, &home.path().join("replayed"), mount_options, &cleanup)?;
        bank::check(&replayed.path().join("bank.db"), SEED, acknowledged).with_context(|| format!("death {death}"))?;
        drop(replayed);
        check_clean(kind, &device)?;
        playground.restart(writer, death == 2)?;
        playground.wait_whole(&nodes, VOLUME)?;
        writer = successor;
    }
    playground.detach(writer, VOLUME)?;
    let verified = playground.at(writer, &["volume", "verify", VOLUME])?;
    ensure!(verified["bytes_different"] == 0, "volume verify says {verified}");
    playground.destroy()
}

#[test]
fn ext4_and_its_database_survive_their_writers() -> Result<()> {
    survives_its_writers("ext4", &[])
}

#[test]
fn xfs_and_its_database_survive_their_writers() -> Result<()> {
    // One kernel for all nodes: the dead writer's file system still holds the UUID for a moment.
    survives_its_writers("xfs", &["-o", "nouuid"])
}
