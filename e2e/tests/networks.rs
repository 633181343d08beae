//! One of two networks cut under load: nobody notices but by a short pause.

use anyhow::{Context, Result, ensure};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::load::{LoadProfile, LoadSession, Recorder, RecorderLimits, Target, scan};
use lockstep_e2e::networks::{Dedicated, Network};
use lockstep_e2e::playground::{Fault, Playground};
use lockstep_e2e::random::Random;
use lockstep_e2e::replicas;
use lockstep_e2e::status::VolumeStatus;
use lockstep_e2e::wait;
use std::sync::Arc;
use std::time::Duration;

const VOLUME: &str = "cut";
const SIZE_BYTES: u64 = 64 << 20;
const OPERATIONS: u64 = 400;
const BOUND: Duration = Duration::from_secs(20);
/// The failure table's longest stall is 1.2 s: suspicion after 1 s of silence and what follows. Doubled, because this machine also
/// runs whatever else it runs; the benchmark measures the level itself.
const STALL_BOUND: Duration = Duration::from_millis(2400);

struct Setup {
    recorder: Arc<Recorder>,
    session: Option<LoadSession>,
    target: Target,
    random: Random,
    playground: Playground,
    _home: tempfile::TempDir,
}

impl Setup {
    fn start() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("lockstep-networks-").tempdir()?;
        let dir = home.path().join("playground");
        let playground = Playground::start_apart(&dir, 3, Dedicated::ByNetwork, &Cleanup::new())?;
        playground.create("a", VOLUME, &SIZE_BYTES.to_string(), 2, &["--on", "a,b"])?;
        let target = Target::of(&playground.attach("a", VOLUME, &["--front-end", "nbd-socket"])?)?;
        let recorder = Arc::new(Recorder::new(RecorderLimits { blocks: SIZE_BYTES / 4096, found_max: 10 }));
        let mut random = Random::new(3);
        let session = LoadSession::start(&recorder, target.clone(), LoadProfile::default(), &mut random);
        Ok(Setup { recorder, session: Some(session), target, random, playground, _home: home })
    }

    fn session(&self) -> Result<&LoadSession> {
        self.session.as_ref().context("the load runs")
    }

    fn status(&self, node: &str) -> Result<VolumeStatus> {
        self.playground.status(node, VOLUME)
    }

    fn wait_carried_by(&self, network: &str) -> Result<()> {
        wait::until_ok(&format!("{network} carries the session"), BOUND, || {
            let peers = self.status("a")?.peers;
            let carried = peers.iter().any(|peer| peer.node == "b" && peer.network.as_deref() == Some(network));
            Ok(carried.then_some(()))
        })
    }

    /// Stops the load, judges the history, and starts it again.
    fn judge(&mut self) -> Result<()> {
        let session = self.session.take().context("the load runs")?;
        let counts = session.finish(BOUND)?;
        ensure!(counts.errors == 0, "{counts:?}");
        let contents = scan(&self.recorder, &self.target)?;
        self.recorder.check().map_err(|found| anyhow::anyhow!("{found:?}"))?;
        self.recorder.checkpoint(&contents);
        let session = LoadSession::start(&self.recorder, self.target.clone(), LoadProfile::default(), &mut self.random);
        self.session = Some(session);
        Ok(())
    }
}

#[test]
fn cut_of_one_network_costs_a_short_pause_and_nobody_is_expelled() -> Result<()> {
    let mut setup = Setup::start()?;
    setup.session()?.wait_progress(OPERATIONS, BOUND)?;
    setup.wait_carried_by("dedicated")?;
    let epoch = setup.status("a")?.epoch;
    // The network in use is cut, then joined; then the other one; then the first again, with the load on the second.
    for (network, carried_by) in
        [(Network::Dedicated, Some("ordinary")), (Network::Ordinary, None), (Network::Dedicated, None)]
    {
        let cut_at = setup.recorder.now();
        setup.playground.networks()?.cut(network)?;
        setup.session()?.wait_progress(OPERATIONS, BOUND).with_context(|| format!("{network:?} is cut"))?;
        if let Some(carried_by) = carried_by {
            setup.wait_carried_by(carried_by)?;
        }
        let gap = setup.recorder.longest_gap(cut_at, setup.recorder.now());
        ensure!(gap < STALL_BOUND, "{network:?} cut: nothing completed for {gap:?}");
        println!("{network:?} cut: longest gap {gap:?}");
        setup.playground.networks()?.join(network)?;
        setup.session()?.wait_progress(OPERATIONS, BOUND).with_context(|| format!("{network:?} is back"))?;
        setup.judge().with_context(|| format!("after {network:?} was cut"))?;
        wait::until_ok("both networks work", BOUND, || {
            let status = setup.status("a")?;
            Ok(status.peers.iter().all(|peer| peer.reachable).then_some(()))
        })?;
    }
    let status = setup.status("a")?;
    ensure!(
        status.epoch == epoch && status.is_whole(),
        "epoch {epoch} became {}, in_sync {:?}",
        status.epoch,
        status.in_sync
    );

    // Bytes of the cut connections that arrived late were never applied: the replicas are the same.
    setup.session.take().context("the load runs")?.finish(BOUND)?;
    setup.playground.detach("a", VOLUME)?;
    let verified = setup.playground.at("a", &["volume", "verify", VOLUME])?;
    ensure!(verified["bytes_different"] == 0, "volume verify says {verified}");
    for node in setup.playground.nodes() {
        setup.playground.disturb(node, Fault::Stop, true)?;
    }
    let files = ["a", "b"]
        .map(|node| replicas::data_file(&setup.playground.pool_dir(node)?, SIZE_BYTES))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    replicas::compare(&files, SIZE_BYTES).map(|_| ())
}
