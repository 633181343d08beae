//! How long the application waits when a peer, a network or the writer goes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::bed::{Bed, Layout, Relayed, device_of};
use super::figures::Figures;
use super::levels::{Level, Line};
use super::probe::{Probe, Waited, longest_wait};
use crate::cleanup::Cleanup;
use crate::load::{AlignedBuffer, BLOCK_BYTES, Target};
use crate::playground::Fault;

const VOLUME: &str = "faults";
const VOLUME_BYTES: u64 = 256 << 20;
const BLOCKS: u64 = VOLUME_BYTES / BLOCK_BYTES as u64;
/// Requests that the probe completes before a fault: the load runs by then.
const SETTLED_REQUESTS: u64 = 500;

/// Longest waits when the peer is killed or paused, and when one of two networks is cut.
pub fn measure_peer(directory: &Path, rounds: usize, cleanup: &Cleanup) -> Result<Vec<Line>> {
    let layout = Layout { relayed: Some((Relayed::DedicatedNetwork, &["a", "b"])), ..Layout::default() };
    let bed = Bed::start(directory, &layout, cleanup)?;
    let device = bed.written_volume(VOLUME, VOLUME_BYTES, "b", &[])?;
    let target = Target::Device(device);
    let mut lines = Vec::new();
    for (what, fault, whole_node, level_ms) in [
        ("longest wait, peer SIGKILL", Fault::Kill, false, 200.0),
        ("longest wait, peer SIGKILL with its supervisor", Fault::Kill, true, 200.0),
        ("longest wait, peer SIGSTOP", Fault::Pause, false, 1500.0),
    ] {
        let waits: Result<Vec<Duration>> = (0..rounds)
            .map(|_| {
                let (waited, from) = bed.under_load(&target, || {
                    bed.playground.disturb("b", fault, whole_node)?;
                    bed.wait_in_sync(VOLUME, &["a"])
                })?;
                match fault {
                    Fault::Pause => bed.playground.resume("b", whole_node)?,
                    Fault::Kill | Fault::Stop => bed.playground.restart("b", whole_node)?,
                }
                bed.wait_in_sync(VOLUME, &["a", "b"])?;
                Ok(longest_wait(&waited, from))
            })
            .collect();
        let waits = waits.with_context(|| what.to_owned())?;
        lines.push(Line::promised(what, "ms", millis(&waits), Level::AtMost(level_ms)));
    }
    let (waits, expulsions) = cut_networks(&bed, &target, rounds).context("cut of a network")?;
    lines.push(Line::promised("longest wait, one of two networks cut", "ms", waits, Level::AtMost(1200.0)));
    lines.push(Line::promised("changes of configuration by that cut", "", expulsions, Level::AtMost(0.0)));
    Ok(lines)
}

fn cut_networks(bed: &Bed, target: &Target, rounds: usize) -> Result<(Figures, Figures)> {
    let (mut waits, mut expulsions) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        wait_network(bed, "dedicated")?;
        let before = bed.status(VOLUME)?.epoch;
        let (waited, from) = bed.under_load(target, || {
            bed.cut();
            wait_network(bed, "ordinary")
        })?;
        waits.push(longest_wait(&waited, from));
        let after = bed.status(VOLUME)?;
        // Also when a member was expelled and is back: each swap is a new epoch.
        expulsions.push(f64::from(u32::try_from(after.epoch - before).unwrap_or(u32::MAX)));
        bed.mend();
    }
    Ok((millis(&waits), Figures(expulsions)))
}

/// Waits until node a's session with b runs over this network.
fn wait_network(bed: &Bed, network: &str) -> Result<()> {
    crate::wait::until_ok(&format!("a and b speak over the {network} network"), Duration::from_secs(30), || {
        let status = bed.status(VOLUME)?;
        let peer = status.peers.iter().find(|peer| peer.node == "b").context("a knows b")?;
        if peer.reachable && peer.network.as_deref() == Some(network) {
            return Ok(Some(()));
        }
        bail!("reachable {}, network {:?}", peer.reachable, peer.network)
    })
}

impl Bed {
    /// Runs the probe round a fault; its requests, and when the fault began.
    fn under_load(&self, target: &Target, fault: impl FnOnce() -> Result<()>) -> Result<(Vec<Waited>, Instant)> {
        let probe = Probe::start(target, BLOCKS)?;
        probe.wait_requests(SETTLED_REQUESTS)?;
        let from = Instant::now();
        let outcome = fault();
        let seen = probe.requests();
        probe.wait_requests(seen + SETTLED_REQUESTS)?;
        let waited = probe.finish()?;
        outcome.map(|()| (waited, from))
    }
}

/// From SIGKILL of the writer to the first write on the other node.
pub fn measure_writer(directory: &Path, rounds: usize, cleanup: &Cleanup) -> Result<Vec<Line>> {
    let bed = Bed::start(directory, &Layout::default(), cleanup)?;
    drop(bed.written_volume(VOLUME, VOLUME_BYTES, "b", &[])?);
    bed.playground.detach("a", VOLUME)?;
    let mut lines = Vec::new();
    for (what, whole_node) in [
        ("writer SIGKILL to first write on the other node", false),
        ("writer SIGKILL with its supervisor to first write on the other node", true),
    ] {
        let times: Result<Vec<Duration>> = (0..rounds).map(|_| take_over(&bed, whole_node)).collect();
        let times = times.with_context(|| what.to_owned())?;
        lines.push(Line::promised(what, "ms", millis(&times), Level::AtMost(4000.0)));
    }
    Ok(lines)
}

fn take_over(bed: &Bed, whole_node: bool) -> Result<Duration> {
    let device = bed.attach("a", VOLUME, &[])?;
    let probe = Probe::start(&Target::Device(device), BLOCKS)?;
    probe.wait_requests(SETTLED_REQUESTS)?;
    let from = Instant::now();
    bed.playground.disturb("a", Fault::Kill, whole_node)?;
    let attachment = bed.playground.attach("b", VOLUME, &["--front-end", "loop", "--take-over"])?;
    let connection = Target::Device(device_of(&attachment)?).open()?;
    let buffer = AlignedBuffer::new(BLOCK_BYTES);
    connection.write(0, buffer.bytes())?;
    let time = from.elapsed();
    drop(connection);
    // Its device died with the writer: errors are what it should see.
    let _ = probe.finish();
    bed.playground.restart("a", whole_node)?;
    bed.playground.wait_whole(&["a".to_owned(), "b".to_owned()], VOLUME)?;
    bed.playground.detach("b", VOLUME)?;
    Ok(time)
}

fn millis(durations: &[Duration]) -> Figures {
    durations.iter().map(|it| it.as_secs_f64() * 1e3).collect()
}
