//! Every time limit, with its number and its reason. All in nanoseconds of the local clock.

/// One millisecond.
pub const MS: u64 = 1_000_000;

/// The limits of one replica. A field rather than constants, so that the simulator can stretch them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// A heartbeat goes out on each network this often.
    pub heartbeat: u64,
    /// Silence on both networks for this long is suspicion.
    pub suspect: u64,
    /// Silence of the network that carries the data, while the other is alive, moves the session to the other.
    pub switch_network: u64,
    /// A preferred network must have been alive this long before data moves back to it.
    pub prefer_network: u64,
    /// A member reads locally only while every other answered a heartbeat sent less than this ago.
    pub read_permission: u64,
    /// At the latest so long after a completion the peers learn that it is committed.
    pub commit_delay: u64,
    /// A disk request older than this fails the replica.
    pub disk_hang: u64,
    /// An unacknowledged write or flush older than this is suspicion, whatever heartbeats say.
    pub unacknowledged: u64,
    /// A restarted member starts alone after not reaching any listed incarnation for this long.
    pub start_alone: u64,
    /// "Exited, restarting" of a recoverable front end holds expulsion back for this long.
    pub restart_hold: u64,
    /// A run whose front end outlives it is waited for this long while nobody else wants anything of the volume.
    pub absence_hold: u64,
    /// Who is not first in line to swap waits this long.
    pub swap_delay: u64,
    /// Who has nothing attached lets those who have go first for this long.
    pub idle_swap_delay: u64,
    /// A round with the arbiter that got no answer is tried again after this long, plus a share per node.
    pub arbiter_retry: u64,
    /// A register elsewhere that does not answer for this long is asked again.
    pub register_patience: u64,
    /// Who waits for a grant Lease this long looks at why, and may want a new epoch.
    pub lease_patience: u64,
    /// A node's own Lease that was not renewed for this long has expired: others may try what it holds.
    pub lease_duration: u64,
    /// Unconfirmed ranges older than this make an idle volume flush by itself, so that intent clears.
    pub background_flush: u64,
    /// A failed attempt to join, leave or verify is tried again after this long.
    pub retry: u64,
}

impl Timing {
    /// The limits that the engine uses.
    pub const PRODUCTION: Timing = Timing {
        heartbeat: 100 * MS,
        suspect: 1_000 * MS,
        switch_network: 500 * MS,
        prefer_network: 5_000 * MS,
        read_permission: 1_500 * MS,
        commit_delay: MS / 5,
        disk_hang: 10_000 * MS,
        unacknowledged: 15_000 * MS,
        start_alone: 10_000 * MS,
        restart_hold: 5_000 * MS,
        absence_hold: 60_000 * MS,
        swap_delay: 1_000 * MS,
        idle_swap_delay: 1_000 * MS,
        arbiter_retry: 250 * MS,
        register_patience: 2_000 * MS,
        lease_patience: 2_000 * MS,
        lease_duration: 40_000 * MS,
        background_flush: 2_000 * MS,
        retry: 500 * MS,
    };

    /// T_read plus the 5 % by which two clocks may differ.
    #[must_use]
    pub const fn read_permission_wait(&self) -> u64 {
        self.read_permission + self.read_permission / 20
    }
}
