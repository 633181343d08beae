//! A replica that is lost for good is replaced on a node that had nothing of the volume, while the volume is written: real
//! processes, asked by the engines' own service.

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::load::LoadProfile;
use lockstep_e2e::playground::Fault;
use lockstep_e2e::random::Random;
use lockstep_e2e::replicas;
use lockstep_e2e::soak::{Cluster, ClusterStart, FrontEnd, OPERATION_BOUND, VOLUME};
use lockstep_e2e::turn::turn;
use lockstep_e2e::wait;
use lockstep_proto::node::v1 as proto;
use lockstep_proto::node::v1::engine_client::EngineClient;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Uri};

const SIZE_BYTES: u64 = 96 << 20;
const OPERATIONS: u64 = 500;
const BOUND: Duration = Duration::from_secs(30);

/// The service of a node's engine.
struct Engine {
    runtime: tokio::runtime::Runtime,
    client: EngineClient<Channel>,
}

impl Engine {
    fn of(cluster: &Cluster, node: &str) -> Result<Engine> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = cluster.playground().node_dir(node).join("engine.sock");
        // The address is never looked up: the connector decides.
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://unix.invalid").connect_with_connector_lazy(tower::service_fn(
                move |_: Uri| {
                    let socket = socket.clone();
                    async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
                },
            ))
        };
        Ok(Engine { runtime, client: EngineClient::new(channel) })
    }

    fn status(&mut self) -> Result<proto::VolumeStatus> {
        let request = proto::GetVolumeRequest { volume: VOLUME.to_owned() };
        Ok(self.runtime.block_on(self.client.get_status(request))?.into_inner())
    }

    fn configuration(&mut self) -> Result<Vec<u8>> {
        let request = proto::GetVolumeRequest { volume: VOLUME.to_owned() };
        Ok(self.runtime.block_on(self.client.get_configuration(request))?.into_inner().configuration)
    }

    fn give_replica(&mut self, configuration: Vec<u8>) -> Result<()> {
        let spec = Some(proto::VolumeSpec { name: VOLUME.to_owned(), ..Default::default() });
        let request = proto::CreateReplicaRequest { spec, exists: true, configuration, replica: true };
        self.runtime.block_on(self.client.create_replica(request))?;
        Ok(())
    }

    fn add_replica(&mut self, node: &str) -> Result<proto::VolumeStatus> {
        let request = proto::AddMemberRequest {
            volume: VOLUME.to_owned(),
            node: node.to_owned(),
            role: proto::Role::Replica.into(),
            ..Default::default()
        };
        Ok(self.runtime.block_on(self.client.add_member(request))?.into_inner())
    }

    fn remove(&mut self, node: &str) -> Result<proto::VolumeStatus> {
        let request = proto::RemoveMemberRequest { volume: VOLUME.to_owned(), node: node.to_owned(), node_id: 0 };
        Ok(self.runtime.block_on(self.client.remove_member(request))?.into_inner())
    }

    fn delete(&mut self) -> Result<bool> {
        let request = proto::DeleteReplicaRequest { volume: VOLUME.to_owned(), id: String::new() };
        Ok(self.runtime.block_on(self.client.delete_replica(request))?.into_inner().existed)
    }

    fn wait_disk(&mut self, disk: proto::DiskState) -> Result<()> {
        wait::until_true(&format!("the disk is {}", disk.as_str_name()), BOUND, || {
            Ok(self.status().is_ok_and(|status| status.this_node.is_some_and(|this| this.disk() == disk)))
        })
    }
}

fn started(home: &tempfile::TempDir, front_end: FrontEnd) -> Result<Cluster> {
    let start = ClusterStart {
        dir: &home.path().join("playground"),
        replicas: 2,
        size_bytes: SIZE_BYTES,
        load_bytes: SIZE_BYTES / 2,
        profile: LoadProfile::default(),
        front_end: Some(front_end),
        pools: &[],
        nodes: 4,
        start_options: &[],
        volume_options: &["--tie-breaker", "c"],
    };
    let mut cluster = Cluster::start(start, Random::new(11), &Cleanup::new())?;
    cluster.attach("a", false)?;
    cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
    Ok(cluster)
}

/// The load goes on, and nothing that it was told was wrong.
fn goes_on(cluster: &mut Cluster) -> Result<()> {
    let session = &cluster.writer()?.session;
    session.wait_progress(OPERATIONS, OPERATION_BOUND)?;
    ensure!(session.counts().errors == 0, "{:?}: {:?}", session.counts(), session.last_error());
    cluster.judge().map(|_| ())
}

#[test]
fn a_replica_lost_for_good_is_replaced_by_a_fourth_node_under_a_recorded_load() -> Result<()> {
    let _turn = turn();
    let home = tempfile::Builder::new().prefix("lockstep-members-").tempdir()?;
    let mut cluster = started(&home, FrontEnd::NbdSocket)?;
    cluster.playground().disturb("b", Fault::Kill, true)?;
    let pool = cluster.playground().pool_dir("b")?;
    std::fs::remove_dir_all(&pool).with_context(|| format!("lose {}", pool.display()))?;
    goes_on(&mut cluster).context("alone")?;

    let (mut a, mut d) = (Engine::of(&cluster, "a")?, Engine::of(&cluster, "d")?);
    d.give_replica(a.configuration()?)?;
    let status = a.add_replica("d")?;
    ensure!(status.replicas.iter().any(|replica| replica.node == "d"), "{status:?}");
    d.wait_disk(proto::DiskState::UpToDate).context("the new replica")?;
    let status = a.remove("b")?;
    ensure!(status.in_sync == ["a", "d"] && status.replicas.len() == 2, "{status:?}");
    goes_on(&mut cluster).context("with the new replica")?;
    wait::until_true("the new replica's node votes", BOUND, || Ok(a.status()?.voters == ["a", "c", "d"]))?;

    // The new one is all that is left, and it is enough.
    cluster.playground().disturb("a", Fault::Kill, true)?;
    if let Some(old) = cluster.attach("d", true)? {
        old.session.finish(BOUND).context("the load on the node that died")?;
    }
    goes_on(&mut cluster).context("from the new replica")?;
    cluster.playground().restart("a", true)?;
    let mut a = Engine::of(&cluster, "a")?;
    a.wait_disk(proto::DiskState::UpToDate).context("the old one again")?;
    cluster.release()?;
    cluster.stop_all()?;
    let files = [cluster.data_file("a")?, cluster.data_file("d")?];
    replicas::compare(&files, SIZE_BYTES)?;
    cluster.destroy()
}

#[test]
fn a_replica_is_moved_off_a_node_and_what_was_there_never_counts_again() -> Result<()> {
    let _turn = turn();
    let home = tempfile::Builder::new().prefix("lockstep-members-").tempdir()?;
    let mut cluster = started(&home, FrontEnd::Loop)?;
    let [mut a, mut b, mut d] = [Engine::of(&cluster, "a")?, Engine::of(&cluster, "b")?, Engine::of(&cluster, "d")?];
    d.give_replica(a.configuration()?)?;
    a.add_replica("d")?;
    d.wait_disk(proto::DiskState::UpToDate).context("the new replica")?;
    a.remove("b")?;
    b.wait_disk(proto::DiskState::Removed).context("the replica that went")?;
    goes_on(&mut cluster)?;
    // Not after a restart either.
    cluster.playground().disturb("b", Fault::Kill, true)?;
    cluster.playground().restart("b", true)?;
    let mut b = Engine::of(&cluster, "b")?;
    b.wait_disk(proto::DiskState::Removed).context("after a restart")?;
    ensure!(a.status()?.in_sync == ["a", "d"]);
    ensure!(b.delete()?, "its files are there until they are deleted");
    // Back again, with a new one.
    b.give_replica(a.configuration()?)?;
    a.add_replica("b")?;
    b.wait_disk(proto::DiskState::UpToDate).context("its new replica")?;
    ensure!(a.status()?.in_sync == ["a", "b", "d"]);
    goes_on(&mut cluster)?;
    cluster.release()?;
    cluster.stop_all()?;
    let files = ["a", "b", "d"].map(|node| cluster.data_file(node));
    replicas::compare(&files.into_iter().collect::<Result<Vec<_>>>()?, SIZE_BYTES)?;
    cluster.destroy()
}
