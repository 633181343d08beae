//! The story of the demo, chapter by chapter. Each chapter ends in a state that is checked, or the demo fails.

use super::copy::{self, Copy};
use super::figures::Figures;
use super::screen::{Screen, bytes, milliseconds};
use super::second_act;
use super::watch::{Highest, Watch};
use crate::bank::{self, Bank, BankStart};
use crate::cleanup::Cleanup;
use crate::command::{program, run_ok};
use crate::load::{AlignedBuffer, BLOCK_BYTES, Target};
use crate::loops::Mounted;
use crate::playground::{Fault, HEAL_BOUND, Playground};
use crate::replicas;
use crate::status::{Attachment, VolumeStatus};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const VOLUME: &str = "demo";
const SIZE: &str = "512MiB";
const WRITER: &str = "a";
const PEER: &str = "b";
const COPY_PARTS: u64 = 192;
const PART_BYTES: u64 = 1 << 20;
/// Commits before something is disturbed, so that there is an undisturbed gap to compare with.
const COMMITS_BEFORE: u64 = 100;
/// Commits after a disturbance that show that work goes on.
const COMMITS_AFTER: u64 = 50;
/// For so many commits on a busy machine.
const COMMITS_BOUND: Duration = Duration::from_secs(30);
const COPY_BOUND: Duration = Duration::from_secs(60);
/// For the dead writer's file system to give up its processes.
const DEATH_BOUND: Duration = Duration::from_secs(15);
const SEED: u64 = 20_260_727;

/// Where the story takes place.
pub struct StoryStart<'a> {
    /// A directory for the playground, that does not exist yet.
    pub dir: &'a Path,
    /// A directory for mount points, outside the playground.
    pub mounts: &'a Path,
    /// The program that runs the transactions, see [`BankStart`].
    pub bank_program: &'a Path,
    /// Its first arguments.
    pub bank_arguments: &'a [&'a str],
}

struct Story<'a> {
    start: StoryStart<'a>,
    screen: Arc<Screen>,
    playground: Arc<Playground>,
    cleanup: Cleanup,
    figures: Figures,
}

/// Tells it all, and returns what was measured.
pub fn tell(start: StoryStart<'_>, screen: &Arc<Screen>, cleanup: &Cleanup) -> Result<Figures> {
    screen.step("Start three nodes on this machine: a, b and c");
    let playground = Arc::new(Playground::start(start.dir, 3, cleanup)?);
    let mut story = Story {
        start,
        screen: screen.clone(),
        playground: playground.clone(),
        cleanup: cleanup.clone(),
        figures: Figures::default(),
    };
    let watch = Watch::start(&playground, screen, VOLUME);

    let device = story.create_and_attach()?;
    let mounted = story.make_file_system(&device)?;
    let bank = story.start_transactions(mounted.path())?;
    story.kill_peer_under_load(&bank, mounted.path())?;
    story.resync_peer(&bank)?;
    let acknowledged = story.kill_writer_under_load(bank, mounted)?;
    let (mounted, device) = story.go_on_elsewhere(acknowledged)?;
    story.check_file_system(mounted, &device)?;
    story.figures.shared = second_act::play(&playground, screen)?;
    story.compare_replicas()?;

    drop(watch);
    screen.finish();
    screen.step("Clean up");
    let Story { playground: last, figures, .. } = story;
    drop(playground);
    match Arc::into_inner(last) {
        Some(playground) => playground.destroy()?,
        None => bail!("the playground is still in use"),
    }
    Ok(figures)
}

impl Story<'_> {
    fn create_and_attach(&self) -> Result<PathBuf> {
        self.screen.step(&format!("Create a volume of {SIZE}: replicas on a and b, c has a vote but no data"));
        self.playground.create(WRITER, VOLUME, SIZE, 2, &["--on", "a,b"])?;
        self.wait_whole()?;
        self.screen.step("Attach it on a, as a block device of the kernel");
        let attachment = self.playground.attach(WRITER, VOLUME, &["--front-end", "loop"])?;
        let device = device_of(&attachment)?;
        self.screen.note(&format!("{}", device.display()));
        Ok(device)
    }

    fn make_file_system(&self, device: &Path) -> Result<Mounted> {
        self.screen.step("Make an ext4 on it and mount it");
        let options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run_ok(program("mkfs.ext4", options).arg(device))?;
        Mounted::mount(device, &self.start.mounts.join(WRITER), &[], &self.cleanup)
    }

    fn start_transactions(&self, mounted: &Path) -> Result<Bank> {
        self.screen.step("Run transactions on it: SQLite, every commit synced, each acknowledgement kept outside");
        let bank = self.bank(mounted)?;
        wait_commits(&bank, COMMITS_BEFORE)?;
        self.screen.note(&format!("{} transactions acknowledged", bank.count()));
        Ok(bank)
    }

    fn bank(&self, mounted: &Path) -> Result<Bank> {
        Bank::start(BankStart {
            program: self.start.bank_program,
            arguments: self.start.bank_arguments,
            database: &mounted.join("bank.db"),
            seed: SEED,
        })
    }

    fn kill_peer_under_load(&mut self, bank: &Bank, mounted: &Path) -> Result<()> {
        self.screen.step("Start a large copy beside the transactions, and SIGKILL b in the middle of it");
        let began = Instant::now();
        let copy = Copy::start(&mounted.join("copy"), SEED, COPY_PARTS);
        let progress = self.screen.progress("copy", COPY_PARTS * PART_BYTES);
        let total = COPY_PARTS * PART_BYTES;
        let until = |what: &str, goal: u64| {
            wait::until_true(what, COPY_BOUND, || {
                progress.set(copy.done_bytes(), total, "");
                Ok(copy.done_bytes() >= goal || copy.is_finished())
            })
        };
        until("a third of the copy is done", total / 3)?;
        wait_commits(bank, 3)?;
        self.figures.undisturbed_gap = bank.longest_gap_since(began);

        let killed = Instant::now();
        self.playground.disturb(PEER, Fault::Kill, false)?;
        until("the copy is done", total)?;
        copy.finish().context("the copy, during which the peer was killed")?;
        wait_commits(bank, COMMITS_AFTER)?;
        if let Some(reason) = bank.end() {
            bail!("the transactions ended when the peer was killed: {reason}");
        }
        self.figures.peer_death_gap = bank.longest_gap_since(killed);
        let status = self.playground.status(WRITER, VOLUME)?;
        ensure!(status.in_sync == [WRITER], "b is dead, and in_sync is {:?}", status.in_sync);
        self.screen.note(&format!(
            "copy and transactions went on: longest gap between commits {} (undisturbed {})",
            milliseconds(self.figures.peer_death_gap),
            milliseconds(self.figures.undisturbed_gap)
        ));
        Ok(())
    }

    fn resync_peer(&mut self, bank: &Bank) -> Result<()> {
        let missed = Highest::default();
        missed.see(dirty_for(&self.playground.status(WRITER, VOLUME)?, PEER));
        self.screen.step(&format!("Restart b: it lacks {}, and gets them while work goes on", bytes(missed.get())));
        let began = Instant::now();
        self.playground.restart(PEER, false)?;
        let progress = self.screen.progress("resync", missed.get());
        wait::until_ok("b is in sync again", HEAL_BOUND, || {
            missed.see(dirty_for(&self.playground.status(WRITER, VOLUME)?, PEER));
            let status = self.playground.status(PEER, VOLUME)?;
            let resync = &status.resync;
            if resync.active {
                let left = resync.seconds_left.map_or_else(String::new, |left| format!(", {left:.1} s left"));
                let text = format!("{}/s{left}", bytes(resync.bytes_per_second as u64));
                progress.set(resync.bytes_done, resync.bytes_total, &text);
            }
            Ok(status.is_whole().then_some(()))
        })?;
        drop(progress);
        self.figures.resync_time = began.elapsed();
        self.wait_whole()?;
        let status = self.playground.status(PEER, VOLUME)?;
        self.figures.changed_bytes = missed.get();
        self.figures.copied_bytes = status.resync.bytes_copied_total;
        self.figures.compared_bytes = status.resync.bytes_compared_total;
        ensure!(self.figures.copied_bytes > 0, "b came back in sync without copying anything");
        wait_commits(bank, COMMITS_AFTER)?;
        self.screen.note(&format!(
            "in sync after {}: {} copied, {} compared by digest",
            milliseconds(self.figures.resync_time),
            bytes(self.figures.copied_bytes),
            bytes(self.figures.compared_bytes)
        ));
        Ok(())
    }

    /// Returns the number of the last transfer that was acknowledged, and when the writer was killed.
    fn kill_writer_under_load(&mut self, bank: Bank, mounted: Mounted) -> Result<Acknowledged> {
        self.screen.step("SIGKILL the writer itself, a, under load");
        let killed = Instant::now();
        self.playground.disturb(WRITER, Fault::Kill, false)?;
        let attachment = self.playground.attach(PEER, VOLUME, &["--front-end", "loop", "--take-over"])?;
        let device = device_of(&attachment)?;
        rewrite_first_block(&device)?;
        self.figures.first_write_elsewhere = killed.elapsed();
        self.screen.note(&format!(
            "attached on b, first write completed after {}",
            milliseconds(self.figures.first_write_elsewhere)
        ));
        // On the dead node the file system fails, and the transactions end with it.
        wait::until_true("the dead writer's transactions have ended", DEATH_BOUND, || Ok(bank.end().is_some()))?;
        let last = bank.stop(DEATH_BOUND)?.context("nothing was acknowledged at all")?;
        self.screen.note(&format!("{last} transactions were acknowledged before it died"));
        self.figures.acknowledged = last;
        drop(mounted);
        Ok(Acknowledged { last, killed, device })
    }

    fn go_on_elsewhere(&mut self, acknowledged: Acknowledged) -> Result<(Mounted, PathBuf)> {
        let Acknowledged { last, killed, device } = acknowledged;
        self.screen.step("Mount it on b: ext4 replays its journal, SQLite its log");
        let mounted = Mounted::mount(&device, &self.start.mounts.join(PEER), &[], &self.cleanup)?;
        // Before anything is committed again: a new transfer would take the number of a lost one.
        let checked = bank::check(&mounted.path().join("bank.db"), SEED, last)
            .context("look for every acknowledged transaction")?;
        self.figures.found = checked.transfers.min(last);
        self.screen.note(&format!(
            "all {last} acknowledged transactions are there ({} more had committed unanswered)",
            checked.unacknowledged
        ));
        let bank = self.bank(mounted.path())?;
        wait_commits(&bank, 1)?;
        let first = bank.first_after(killed).context("a commit was just counted")?;
        self.figures.first_commit_elsewhere = first - killed;
        copy::check(&mounted.path().join("copy"), SEED, COPY_PARTS)?;
        self.screen.note("the large copy is intact, byte by byte");

        self.screen.step("Restart a: it comes back as a peer, while transactions go on on b");
        self.playground.restart(WRITER, false)?;
        self.wait_whole()?;
        wait_commits(&bank, COMMITS_AFTER)?;
        let last = bank.stop(DEATH_BOUND)?.context("commits were just counted")?;
        bank::check(&mounted.path().join("bank.db"), SEED, last).context("check the database at the end")?;
        Ok((mounted, device))
    }

    fn check_file_system(&self, mounted: Mounted, device: &Path) -> Result<()> {
        self.screen.step("Unmount it and check the file system");
        drop(mounted);
        run_ok(program("e2fsck", ["-f", "-n"]).arg(device)).context("the file system is not clean")?;
        self.screen.note("e2fsck finds nothing");
        self.playground.detach(PEER, VOLUME)
    }

    fn compare_replicas(&mut self) -> Result<()> {
        self.screen.step("Compare the replicas: by digest while the engines run, byte by byte when all are stopped");
        self.wait_whole()?;
        let verified = self.playground.at(PEER, &["volume", "verify", VOLUME])?;
        ensure!(verified["bytes_different"] == 0, "volume verify says {verified}");
        let size_bytes = self.playground.status(PEER, VOLUME)?.size_bytes;
        for node in self.playground.nodes() {
            self.playground.disturb(node, Fault::Stop, true)?;
        }
        let paths = [WRITER, PEER]
            .map(|node| replicas::data_file(&self.playground.pool_dir(node)?, size_bytes))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        self.figures.compared_replica_bytes = replicas::compare(&paths, size_bytes)?;
        self.screen.note(&format!("identical: {}", bytes(size_bytes)));
        Ok(())
    }

    fn wait_whole(&self) -> Result<()> {
        self.playground.wait_whole(&[WRITER.to_owned(), PEER.to_owned()], VOLUME)
    }
}

/// What is known when the writer is dead and the volume attached elsewhere.
struct Acknowledged {
    last: i64,
    killed: Instant,
    device: PathBuf,
}

fn device_of(attachment: &Attachment) -> Result<PathBuf> {
    attachment.device.clone().with_context(|| format!("attached as a device, but {attachment:?}"))
}

fn dirty_for(status: &VolumeStatus, node: &str) -> u64 {
    status.dirty_bytes.get(node).copied().unwrap_or(0)
}

fn wait_commits(bank: &Bank, more: u64) -> Result<()> {
    let goal = bank.count() + more;
    wait::until_true(&format!("{more} more transactions are acknowledged"), COMMITS_BOUND, || match bank.end() {
        Some(reason) => bail!("the transactions ended: {reason}"),
        None => Ok(bank.count() >= goal),
    })
}

/// A write that changes nothing, before anything else uses the device: the first on this node.
fn rewrite_first_block(device: &Path) -> Result<()> {
    let connection = Target::Device(device.to_path_buf()).open()?;
    let mut block = AlignedBuffer::new(BLOCK_BYTES);
    connection.read(0, block.bytes_mut()).context("read the first block")?;
    connection.write(0, block.bytes()).context("write the first block")
}
