//! The shape of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "Examples:
  lockstep playground start --nodes 3
  lockstep --node a volume create v1 --size 1GiB --replicas 2
  lockstep --node a volume attach v1
  lockstep --node a volume status v1 --output json
  lockstep playground kill a
  lockstep --node b volume attach v1 --take-over
  lockstep playground destroy

Exit codes: 0 done, 2 wrong input, 3 the present state forbids it, 4 somebody needed cannot be reached, 1 everything else.";

/// Volumes whose every write is on two or three nodes' disks before it completes
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, after_help = EXAMPLES, propagate_version = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub place: Place,
    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
    #[command(subcommand)]
    pub topic: Topic,
}

/// Whom a command speaks with.
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// The playground's directory [default: ./lockstep-playground]
    #[arg(long, global = true, env = "LOCKSTEP_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The node to ask: its name in the playground, or the path of its agent's socket
    #[arg(long, global = true, env = "LOCKSTEP_NODE", value_name = "NODE")]
    pub node: Option<String>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For scripts: exactly one JSON value
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Topic {
    /// Create, attach, look at and delete volumes
    #[command(subcommand)]
    Volume(Volume),
    /// Several nodes on this machine, to try things out
    #[command(subcommand)]
    Playground(Playground),
    /// Show the node: its engine, pool and peers
    #[command(after_help = "Example:\n  lockstep --node a node")]
    Node,
    /// Show the node's pool
    #[command(after_help = "Examples:\n  lockstep --node a pool\n  lockstep --node a pool --output json")]
    Pool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Volume {
    /// Create a volume: on all its nodes, or on none
    #[command(after_help = "Examples:
  lockstep --node a volume create v1 --size 1GiB --replicas 2
  lockstep --node a volume create v2 --size 100GiB --replicas 3 --ack durable
  lockstep --node a volume create v3 --size 20GiB --on a,b --tie-breaker c --on-quorum-loss error")]
    Create(Create),
    /// Attach a volume at this node; prints the device or socket
    #[command(after_help = "Examples:
  lockstep --node a volume attach v1
  lockstep --node a volume attach v1 --front-end nbd-socket
  lockstep --node b volume attach v1 --take-over --timeout 1m")]
    Attach(Attach),
    /// Detach a volume from this node
    #[command(after_help = "Example:\n  lockstep --node a volume detach v1")]
    Detach(Named),
    /// Show a volume as this node sees it
    #[command(
        after_help = "Examples:\n  lockstep --node a volume status v1\n  lockstep --node a volume status v1 --output json"
    )]
    Status(Named),
    /// Show a volume's resync until all its replicas are in sync
    #[command(
        after_help = "Examples:\n  lockstep --node a volume watch v1\n  lockstep --node a volume watch v1 --timeout 10m"
    )]
    Watch(Watch),
    /// Show all volumes
    #[command(after_help = "Example:\n  lockstep --node a volume list")]
    List,
    /// Grow a volume
    #[command(after_help = "Example:\n  lockstep --node a volume resize v1 --size 2GiB")]
    Resize(Resize),
    /// Compare all replicas of a volume
    #[command(after_help = "Examples:
  lockstep --node a volume verify v1
  lockstep --node a volume verify v1 --repair-from a")]
    Verify(Verify),
    /// Delete a volume, which must not be attached anywhere
    #[command(
        after_help = "Examples:\n  lockstep --node a volume delete v1\n  lockstep --node a volume delete v1 --allow-absent"
    )]
    Delete(Delete),
    /// Go on with this node's replica alone, whatever the others hold: a new generation
    #[command(
        after_help = "This is the only command that may lose acknowledged data. Look at the status of every node first.

Example:
  lockstep --node b volume force v1 --i-accept-data-loss"
    )]
    Force(Force),
    /// Give up this node's generation of a volume that was forced elsewhere, and take everything from the others
    #[command(after_help = "What only this node's replica holds is lost. Look at the status of every node first.

Example:
  lockstep --node a volume rejoin v1 --i-accept-data-loss")]
    Rejoin(Force),
    /// Limit how fast this node's replica resyncs
    #[command(
        after_help = "Examples:\n  lockstep --node b volume limit-resync v1 --rate 50MiB\n  lockstep --node b volume limit-resync v1 --rate 0"
    )]
    LimitResync(LimitResync),
    /// Who goes first when several nodes want to write one range: this volume's requests have this priority
    #[command(after_help = "Example:\n  lockstep --node a volume priority v1 high")]
    Priority(SetPriority),
    /// When a peer acknowledges a write, from now on
    #[command(after_help = "Example:\n  lockstep --node a volume ack v1 durable")]
    Ack(SetAck),
    /// Move the right to write the whole of a multi-writer volume to one of the nodes that have it attached
    #[command(after_help = "Example:\n  lockstep --node a volume migrate v1 --to b")]
    Migrate(Migrate),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The volume's name: 1 to 63 of a-z, 0-9 and '-'
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// Size with its unit, like 1GiB; a multiple of 4 KiB
    #[arg(long)]
    pub size: String,
    /// Number of replicas, 2 or 3 [default: as many as --on names, else 2]
    #[arg(long, value_name = "COUNT")]
    pub replicas: Option<u32>,
    /// When a peer acknowledges a write: when its disk completed it, or when it is durable there
    #[arg(long, value_enum, default_value_t = Ack::Disk)]
    pub ack: Ack,
    /// Nodes that hold the replicas [default: the node that is asked, then the lowest]
    #[arg(long, value_delimiter = ',', value_name = "NODES")]
    pub on: Vec<String>,
    /// The node that votes without data [default: the lowest without a replica]
    #[arg(long, value_name = "NODE")]
    pub tie_breaker: Option<String>,
    /// What requests do while no quorum can be reached
    #[arg(long, value_enum, default_value_t = OnQuorumLoss::Suspend)]
    pub on_quorum_loss: OnQuorumLoss,
    /// Whether one node at a time may write, or several at once (raw block, O_DIRECT; not for file systems)
    #[arg(long, value_enum, default_value_t = Access::SingleWriter)]
    pub access: Access,
    /// Who keeps the configuration: a quorum of the volume's voters, or a Kubernetes Lease, with which two nodes need no third.
    /// Cannot be changed later
    #[arg(long, value_enum, default_value_t = Arbiter::Peers)]
    pub arbiter: Arbiter,
    /// Who decides who may write: the volume's nodes among themselves, or Kubernetes Leases (with --arbiter lease). Cannot be
    /// changed later
    #[arg(long, value_enum, default_value_t = Policing::Peer)]
    pub policing: Policing,
    /// How many Leases say who may write, each for its part of a multi-writer volume: 1 to 16 [default: 1]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub policing_shards: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Arbiter {
    Peers,
    Lease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Policing {
    Peer,
    Lease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Access {
    SingleWriter,
    MultiWriter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Ack {
    Disk,
    Durable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnQuorumLoss {
    Suspend,
    Error,
}

#[derive(Debug, Args)]
pub(super) struct Attach {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// What turns the volume into a device; auto takes the best that this machine has
    #[arg(long, value_enum, default_value_t = FrontEnd::Auto)]
    pub front_end: FrontEnd,
    /// How the FUSE file below a loop device is served; io_uring needs the kernel's machine-wide switch
    #[arg(long, value_enum, default_value_t = Fuse::Recoverable)]
    pub fuse: Fuse,
    /// Attach for reading only
    #[arg(long)]
    pub read_only: bool,
    /// Take the volume from a writer that does not answer; waits until it is proven that it can write no more
    #[arg(long)]
    pub take_over: bool,
    /// Priority of this attachment's requests to write, of a multi-writer volume [default: the volume's]
    #[arg(long, value_enum)]
    pub priority: Option<Priority>,
    /// How long to wait at most, like 30s or 2m
    #[arg(long, value_parser = humantime::parse_duration, default_value = "30s")]
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FrontEnd {
    /// loop where the machine has FUSE and loop devices, else nbd-socket
    Auto,
    /// A kernel block device: a FUSE file under a loop device
    Loop,
    /// A unix socket for qemu, libnbd and fio
    NbdSocket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Fuse {
    Recoverable,
    #[value(name = "io_uring")]
    IoUring,
}

#[derive(Debug, Args)]
pub(super) struct Watch {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// How long to wait at most, like 30s or 2m [default: until it is done]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct Resize {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// The new size with its unit, like 2GiB; volumes only grow
    #[arg(long)]
    pub size: String,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// Make the others equal to this node's replica where they differ
    #[arg(long, value_name = "NODE")]
    pub repair_from: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// Delete even if a node does not answer; its part goes when it comes back
    #[arg(long)]
    pub allow_absent: bool,
}

#[derive(Debug, Args)]
pub(super) struct Force {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// What the replica that is given up holds alone is lost
    #[arg(long)]
    pub i_accept_data_loss: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Priority {
    Low,
    Normal,
    High,
}

#[derive(Debug, Args)]
pub(super) struct SetPriority {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// Its priority
    #[arg(value_enum)]
    pub priority: Priority,
}

#[derive(Debug, Args)]
pub(super) struct SetAck {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// When its disk completed the write, or when it is durable there
    #[arg(value_enum)]
    pub ack: Ack,
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// The node that shall hold the right to write all of it
    #[arg(long, value_name = "NODE")]
    pub to: String,
}

#[derive(Debug, Args)]
pub(super) struct LimitResync {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub volume: String,
    /// Bytes a second, like 50MiB; 0 is no limit
    #[arg(long)]
    pub rate: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Playground {
    /// Make a playground and start its nodes a, b, c...
    #[command(after_help = "Example:\n  lockstep playground start --dir /tmp/try --nodes 3")]
    Start {
        /// Number of nodes, 1 to 9
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// How all nodes reach the API server, for volumes that Kubernetes Leases arbitrate; for a new playground only
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Kill a node's worker (SIGKILL); nothing starts it again until `restart`
    #[command(after_help = "Examples:\n  lockstep playground kill a\n  lockstep playground kill a --whole-node")]
    Kill(Disturb),
    /// End a node in order
    #[command(after_help = "Examples:\n  lockstep playground stop a\n  lockstep playground stop a --whole-node")]
    Stop(Disturb),
    /// Start what does not run on a node
    #[command(after_help = "Examples:\n  lockstep playground restart a\n  lockstep playground restart a --whole-node")]
    Restart(Disturb),
    /// Freeze a node's worker (SIGSTOP)
    #[command(after_help = "Example:\n  lockstep playground pause a")]
    Pause(Disturb),
    /// Let a frozen node go on
    #[command(after_help = "Example:\n  lockstep playground resume a")]
    Resume(Disturb),
    /// Show the processes of all nodes
    #[command(after_help = "Example:\n  lockstep playground status")]
    Status,
    /// End everything and remove the directory
    #[command(after_help = "Example:\n  lockstep playground destroy --dir /tmp/try")]
    Destroy,
}

#[derive(Debug, Args)]
pub(super) struct Disturb {
    /// The node's name
    #[arg(value_name = "NODE")]
    pub name: String,
    /// The supervisor and the agent too, not only the worker
    #[arg(long)]
    pub whole_node: bool,
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn look(command: &clap::Command, path: &str) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let leaf = command.get_subcommands().next().is_none();
            assert!(!leaf || help.contains("Example"), "{path} {}", command.get_name());
            command.get_subcommands().for_each(|sub| look(sub, command.get_name()));
        }
        look(&Arguments::command(), "");
    }

    #[test]
    fn documented_lines_are_accepted() {
        for line in [
            "playground start --dir d --nodes 3",
            "playground kill a --whole-node",
            "playground stop a",
            "playground restart a --whole-node",
            "playground pause a",
            "playground resume a --output json",
            "playground status",
            "playground destroy --dir d",
            "--node a volume create v --size 1GiB --replicas 2 --ack durable --on a,b --tie-breaker c --on-quorum-loss error",
            "--node a volume attach v --front-end nbd-socket --fuse io_uring",
            "--dir d --node b volume attach v --take-over --timeout 30s --output json",
            "volume status v --node a --output json",
            "--node a volume detach v",
            "--node a volume resize v --size 2GiB",
            "--node a volume verify v",
            "--node a volume delete v",
            "--node a volume list",
            "--node b volume force v --i-accept-data-loss",
            "--node b volume rejoin v --i-accept-data-loss",
            "--node b volume limit-resync v --rate 50MiB",
            "--node b volume watch v --timeout 1m",
            "--node a volume priority v high",
            "--node a volume ack v durable",
        ] {
            let words = std::iter::once("lockstep").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
