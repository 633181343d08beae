//! The files of one volume on one node, and how they come and go.
//!
//! ```text
//! DIR/<volume's name>/superblock   whose files these are
//!                    /area.0 .1    metadata: snapshot and log, see `lockstep_format::disk`
//!                    /data         the replica's blocks; not there for a tie-breaker's memory
//! ```
//!
//! A new volume is made under another name and renamed when all of it is durable: it exists or it does not. Everything
//! here waits for the disk, and therefore runs on threads of its own, never on a loop.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_core::{Arbiter, BlockRange, Meta, NodeId};
use lockstep_format::disk::{AREAS, DecodeSuperblock, Journal, LoadMeta, Owner, Superblock, load};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Bytes of an area that are written with zeroes at creation: later commits find blocks that need no allocation, so
/// that a durable write costs one flush of the device and no commit of the file system.
pub(crate) const AREA_BYTES: u64 = 1 << 20;

pub(crate) const SUPERBLOCK: &str = "superblock";
const AREA_NAMES: [&str; AREAS] = ["area.0", "area.1"];
const DATA: &str = "data";
/// Prefix of what is being made or deleted; a volume's name never begins with a dot.
const UNFINISHED: &str = ".unfinished-";

/// Why a volume's files could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateReplica {
    /// There is something of that name.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// A step failed; nothing is left behind.
    #[error("cannot make {path}")]
    Make {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a volume cannot be run from its files. They stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum OpenReplica {
    /// A file cannot be opened, read or locked.
    #[error("cannot open {path}: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The superblock is not good.
    #[error("{0}")]
    Superblock(DecodeSuperblock),
    /// The metadata is not good.
    #[error("{0}")]
    Meta(LoadMeta),
    /// Its configuration lies where this program cannot go.
    #[error("arbiter: a Lease keeps this volume's configuration, and this node is given no kubeconfig")]
    Arbiter,
}

/// The open files of a volume.
#[derive(Debug)]
pub(crate) struct Files {
    /// Open O_DIRECT and locked.
    pub(crate) areas: [File; AREAS],
    /// The replica's blocks, or why they cannot be used. `None`: this node keeps no data.
    pub(crate) data: Option<Result<File, String>>,
    pub(crate) journal: Journal,
}

/// Makes the files of a new volume in `dir` under `name`, durably.
pub(crate) fn create(dir: &Path, name: &str, owner: Owner, meta: Meta) -> Result<Files, CreateReplica> {
    let path = dir.join(name);
    if path.exists() {
        return Err(CreateReplica::Exists(path));
    }
    let unfinished = dir.join(format!("{UNFINISHED}{name}"));
    let made = fill(&unfinished, owner, meta).and_then(|files| {
        fs::rename(&unfinished, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(files)
    });
    made.map_err(|source| {
        let _ = fs::remove_dir_all(&unfinished);
        CreateReplica::Make { path, source }
    })
}

fn fill(dir: &Path, owner: Owner, meta: Meta) -> io::Result<Files> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    let data_bytes = meta.has_data.then(|| BlockRange::new(0, meta.config.size_blocks).bytes());
    let mut first = Vec::new();
    let journal = Journal::create(owner, meta, &mut first);
    first.resize(first.len().max(usize::try_from(AREA_BYTES).expect("1 MiB")), 0);
    let zeroes = vec![0; usize::try_from(AREA_BYTES).expect("1 MiB")];
    for (name, content) in AREA_NAMES.iter().zip([first, zeroes]) {
        let mut file = File::create_new(dir.join(name))?;
        file.write_all(&content)?;
        file.sync_all()?;
    }
    if let Some(bytes) = data_bytes {
        let file = File::create_new(dir.join(DATA))?;
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut superblock = File::create_new(dir.join(SUPERBLOCK))?;
    superblock.write_all(&Superblock::new(owner, seconds).encode())?;
    superblock.sync_all()?;
    File::open(dir)?.sync_all()?;
    let areas = [open_locked(&dir.join(AREA_NAMES[0]))?, open_locked(&dir.join(AREA_NAMES[1]))?];
    let data = if data_bytes.is_some() { Some(Ok(open_locked(&dir.join(DATA))?)) } else { None };
    Ok(Files { areas, data, journal })
}

/// Opens a volume's files. Waits until an engine that was killed has let go of them: until then its writes may land.
/// `leases`: this node can reach Leases.
pub(crate) fn open(dir: &Path, node: NodeId, leases: bool) -> Result<Files, OpenReplica> {
    let path = |name: &str| dir.join(name);
    let wrap = |name: &str| {
        let path = dir.join(name);
        move |source| OpenReplica::Open { path, source }
    };
    let mut block = Vec::new();
    let superblock = File::open(path(SUPERBLOCK)).and_then(|mut file| file.read_to_end(&mut block));
    superblock.map_err(wrap(SUPERBLOCK))?;
    let superblock = Superblock::decode(&block).map_err(OpenReplica::Superblock)?;
    let owner = Owner { volume: superblock.owner.volume, node };
    superblock.check_owner(owner).map_err(OpenReplica::Superblock)?;
    let first = open_locked(&path(AREA_NAMES[0])).map_err(wrap(AREA_NAMES[0]))?;
    let second = open_locked(&path(AREA_NAMES[1])).map_err(wrap(AREA_NAMES[1]))?;
    // The lock on the data comes first: whoever still holds it may still write metadata.
    let data = open_locked(&path(DATA));
    let contents = [
        read_all(&path(AREA_NAMES[0])).map_err(wrap(AREA_NAMES[0]))?,
        read_all(&path(AREA_NAMES[1])).map_err(wrap(AREA_NAMES[1]))?,
    ];
    let journal = load(owner, [&contents[0], &contents[1]]).map_err(OpenReplica::Meta)?;
    if journal.meta().config.settings.arbiter == Arbiter::Lease && !leases {
        return Err(OpenReplica::Arbiter);
    }
    let data = journal.meta().has_data.then(|| check_data(data, journal.meta().config.size_blocks));
    Ok(Files { areas: [first, second], data, journal })
}

/// A file that is shorter than the volume has lost blocks: its length is durable before a configuration that needs it.
fn check_data(data: io::Result<File>, blocks: u64) -> Result<File, String> {
    let data = data.map_err(|error| format!("data file: {error}"))?;
    let wanted = BlockRange::new(0, blocks).bytes();
    match data.metadata() {
        Ok(found) if found.len() >= wanted => Ok(data),
        Ok(found) => Err(format!("data file: {} bytes, the volume has {wanted}", found.len())),
        Err(error) => Err(format!("data file: {error}")),
    }
}

fn open_locked(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW).open(path)?;
    // flock(2), on this very open file: it is freed when the last operation of the ring that holds the file has ended,
    // and by nothing else.
    file.lock()?;
    Ok(file)
}

/// Through the page cache: the file may be of any length. Nobody else writes it, its lock is ours.
fn read_all(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // Pages from before the lock was ours may be older than what O_DIRECT wrote since.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Takes a volume's files away. It does not exist from the rename on.
pub(crate) fn delete(dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    let unfinished = dir.join(format!("{UNFINISHED}{name}"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::rename(&path, &unfinished)?;
    File::open(dir)?.sync_all()?;
    fs::remove_dir_all(&unfinished)
}

/// Names of the volumes in `dir`. Takes away what was being made or deleted when the engine stopped.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path())?;
        } else if entry.path().join(SUPERBLOCK).exists() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
