//! The shape of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "Examples:
  kubectl lockstep status
  kubectl lockstep volume data --claim-namespace shop
  kubectl lockstep node worker-1 --output json
  kubectl lockstep drain worker-1
  kubectl lockstep pool drain worker-1
  kubectl lockstep pool replace worker-1 --device /dev/disk/by-id/nvme-new
  kubectl lockstep bundle --directory ./lockstep-bundle";

/// Volumes of Lockstep in this cluster: what is where, what is wrong, and what is done by hand
#[derive(Debug, Parser)]
#[command(name = "kubectl lockstep", bin_name = "kubectl lockstep", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The namespace in which Lockstep is installed
    #[arg(long, global = true, default_value = "lockstep-system", env = "LOCKSTEP_NAMESPACE")]
    pub namespace: String,
    /// The context of the kubeconfig to use [default: the current one]
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For scripts: exactly one JSON value
    Json,
}

impl Output {
    pub(crate) fn print<T: serde::Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let text = match self {
            Self::Json => serde_json::to_string(value)?,
            Self::Table => table(value),
        };
        println!("{}", text.trim_end());
        Ok(())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cluster: nodes, space, and the volumes that are not as they should be
    #[command(after_help = "Example:\n  kubectl lockstep status")]
    Status,
    /// Show all volumes
    #[command(after_help = "Example:\n  kubectl lockstep volumes --output json")]
    Volumes,
    /// Show a volume: replicas, writers, resync with rate and time left, last fail-over
    #[command(after_help = "Examples:
  kubectl lockstep volume pvc-0e7d2a6c
  kubectl lockstep volume data --claim-namespace shop")]
    Volume(WhichVolume),
    /// Show all nodes
    #[command(after_help = "Example:\n  kubectl lockstep nodes")]
    Nodes,
    /// Show a node: its pool, its engine, and its part of each volume
    #[command(after_help = "Example:\n  kubectl lockstep node worker-1")]
    Node(Which),
    /// Take no new replicas on a node, and say what would be lost if it went away now
    #[command(after_help = "Exit code 1 if the node holds the last up-to-date copy of a volume.

Examples:
  kubectl lockstep drain worker-1
  kubectl lockstep drain worker-1 && kubectl drain worker-1 --ignore-daemonsets --delete-emptydir-data")]
    Drain(Drain),
    /// Take new replicas on a node again
    #[command(after_help = "Example:\n  kubectl lockstep undrain worker-1")]
    Undrain(Which),
    /// Empty the pool of a node, and give it another disk
    #[command(subcommand)]
    Pool(Pool),
    /// Move all replicas of a node elsewhere, or let them stay; `pool drain` does the same and shows how far it is
    #[command(after_help = "Examples:\n  kubectl lockstep evict worker-1\n  kubectl lockstep evict worker-1 --undo")]
    Evict(Evict),
    /// Go on with one node's replica of a volume alone: the only command that may lose acknowledged data
    #[command(after_help = "Look at the volume and at every node first.

Example:
  kubectl lockstep force pvc-0e7d2a6c --on worker-2 --i-accept-data-loss")]
    Force(Force),
    /// Write objects, events, live figures and logs into a directory, to be sent to whoever helps
    #[command(after_help = "Nothing in it is a secret: keys are not read.

Example:
  kubectl lockstep bundle --directory ./lockstep-bundle")]
    Bundle(Bundle),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pool {
    /// Move all replicas of a node elsewhere, and show progress until none is left
    #[command(
        after_help = "Replicas are moved while their volumes are used: each gets its new copy first. It needs other nodes with room.
Ctrl-C ends only the watching; `kubectl lockstep evict NODE --undo` stops it. With --output json progress is on standard error, and
one value is printed at the end.

Examples:
  kubectl lockstep pool drain worker-1
  kubectl lockstep pool drain worker-1 --no-wait --output json"
    )]
    Drain(PoolDrain),
    /// Give a node another disk or directory, once no replica is left there
    #[command(
        after_help = "It is refused while a replica is on the node. What is on the new disk must be nothing, or this very pool.

Examples:
  kubectl lockstep pool replace worker-1 --device /dev/disk/by-id/nvme-new
  kubectl lockstep pool replace worker-1 --directory /srv/lockstep"
    )]
    Replace(PoolReplace),
}

#[derive(Debug, Args)]
pub(crate) struct PoolDrain {
    /// The node's name
    pub name: String,
    /// Return at once, and say what is there now
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PoolReplace {
    /// The node's name
    pub name: String,
    #[command(flatten)]
    pub storage: Storage,
}

/// Where the pool is to be: exactly one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Storage {
    /// An empty directory of a local file system: an absolute path on the node
    #[arg(long)]
    pub directory: Option<String>,
    /// A disk or partition without anything on it, by a name that stays: an absolute path on the node
    #[arg(long)]
    pub device: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The node's name
    pub name: String,
}

#[derive(Debug, Args)]
pub(crate) struct WhichVolume {
    /// The volume's name; with --claim-namespace the claim's
    pub name: String,
    /// The namespace of the claim whose volume is meant
    #[arg(long)]
    pub claim_namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The node's name
    pub name: String,
    /// Only say what would be lost
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Evict {
    /// The node's name
    pub name: String,
    /// Let the replicas stay after all
    #[arg(long)]
    pub undo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Force {
    /// The volume's name
    pub volume: String,
    /// The node whose replica is to be gone on with
    #[arg(long)]
    pub on: String,
    /// What other replicas hold and this one does not is lost
    #[arg(long = "i-accept-data-loss", required = true)]
    pub accept_data_loss: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bundle {
    /// Made if it is absent
    #[arg(long, default_value = "lockstep-bundle")]
    pub directory: PathBuf,
}
