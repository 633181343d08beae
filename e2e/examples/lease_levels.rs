//! What Lease policing asks of the API server, and what it does without one: figures for `bench --only leases`, as JSON on standard output.
//!
//! A real API server, three nodes of a playground, a hundred volumes that are attached and idle, and one that two nodes write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lockstep_apiserver::ApiServer;
use lockstep_e2e::bench::figures::Figures;
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::load::{AlignedBuffer, BLOCK_BYTES, Connection, Target};
use lockstep_e2e::playground::Playground;

const NAMESPACE: &str = "lockstep";
const BY_LEASE: [&str; 4] = ["--arbiter", "lease", "--policing", "lease"];
const IDLE_VOLUMES: usize = 100;
/// Each node renews its own Lease once in this time.
const RENEWAL: Duration = Duration::from_secs(10);
const RENEWALS: u32 = 6;
const WRITES: usize = 2_000;
const TRANSFERS: usize = 100;
const AWAY: Duration = Duration::from_secs(60);
const SHARED: &str = "shared";
const SHARD_BYTES: u64 = 16 << 20;

fn main() -> Result<()> {
    let home = tempfile::Builder::new().prefix("lockstep-lease-levels-").tempdir()?;
    let cleanup = Cleanup::new();
    let server = ApiServer::start(&home.path().join("kubernetes"), &cleanup)?;
    server.make_namespace(NAMESPACE)?;
    server.allow(NAMESPACE)?;
    let kubeconfig = server.user_kubeconfig().to_string_lossy().into_owned();
    let directory = home.path().join("playground");
    let playground = Playground::start_with(&directory, 3, &["--kubeconfig", &kubeconfig], &cleanup)?;
    let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();

    for number in 0..IDLE_VOLUMES {
        let name = format!("idle-{number}");
        playground.create("a", &name, "1MiB", 2, &BY_LEASE)?;
        write(&attach(&playground, "a", &name)?.open()?, 0)?;
    }
    let before = requests(&playground)?;
    std::thread::sleep(RENEWAL * RENEWALS);
    let idle = requests(&playground)? - before;
    // Nodes with a part of a volume: two replicas each, on a and b.
    figures.insert("idle", vec![idle as f64 / f64::from(RENEWALS) / 2.0]);

    let writer = attach(&playground, "a", "idle-0").or_else(|_| reattach(&playground, "a", "idle-0"))?.open()?;
    write(&writer, 0)?;
    let (before, from) = (requests(&playground)?, Instant::now());
    for _ in 0..WRITES {
        write(&writer, 0)?;
    }
    let renewed = from.elapsed().as_secs_f64() / RENEWAL.as_secs_f64() * 2.0;
    let more = (requests(&playground)? - before) as f64 - renewed;
    figures.insert("per_write", vec![more.max(0.0) / WRITES as f64]);

    let options = [&BY_LEASE[..], &["--policing-shards", "4", "--access", "multi-writer"]].concat();
    playground.create("a", SHARED, &(4 * SHARD_BYTES).to_string(), 2, &options)?;
    let targets = [attach(&playground, "a", SHARED)?, attach(&playground, "b", SHARED)?];
    let [a, b] = [targets[0].open()?, targets[1].open()?];
    for round in 0..TRANSFERS {
        let time = write(if round % 2 == 0 { &a } else { &b }, 0)?;
        figures.entry("transfer_ms").or_default().push(time.as_secs_f64() * 1e3);
    }

    write(&a, 0)?;
    write(&b, SHARD_BYTES)?;
    server.stop_server()?;
    let from = Instant::now();
    let foreign = {
        let target = targets[1].clone();
        std::thread::spawn(move || -> Result<Instant> {
            write(&target.open()?, 0)?;
            Ok(Instant::now())
        })
    };
    while from.elapsed() < AWAY {
        for (writer, offset) in [(&a, 0), (&b, SHARD_BYTES)] {
            // The shard that is wanted elsewhere is still its holder's.
            figures.entry("held_while_away_ms").or_default().push(write(writer, offset)?.as_secs_f64() * 1e3);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if foreign.is_finished() {
        bail!("another's shard was written without the API server");
    }
    server.restart_server()?;
    let back = Instant::now();
    let written = foreign.join().map_err(|_| anyhow::anyhow!("the waiting writer panicked"))??;
    figures.insert("waiter_after_s", vec![written.saturating_duration_since(back).as_secs_f64()]);
    playground.destroy()?;

    let figures: BTreeMap<&str, Figures> = figures.into_iter().map(|(name, all)| (name, Figures(all))).collect();
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn attach(playground: &Playground, node: &str, volume: &str) -> Result<Target> {
    Target::of(&playground.attach(node, volume, &["--front-end", "nbd-socket"])?)
}

fn reattach(playground: &Playground, node: &str, volume: &str) -> Result<Target> {
    playground.detach(node, volume)?;
    attach(playground, node, volume)
}

fn write(connection: &Connection, offset: u64) -> Result<Duration> {
    let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
    buffer.bytes_mut().fill(0x5a);
    let from = Instant::now();
    connection.write(offset, buffer.bytes())?;
    Ok(from.elapsed())
}

/// Requests that all nodes have sent to the API server.
fn requests(playground: &Playground) -> Result<u64> {
    let mut sum = 0;
    for node in playground.nodes() {
        for verb in ["get", "list", "watch", "create", "update", "delete"] {
            for kind in ["configuration", "grants", "node"] {
                let name = format!("lockstep_lease_requests_total{{verb=\"{verb}\",kind=\"{kind}\"}}");
                sum += playground.metric(node, &name).unwrap_or(0);
            }
        }
    }
    (sum > 0).then_some(sum).context("no node tells of a request to the API server: is the metric's name still right?")
}
