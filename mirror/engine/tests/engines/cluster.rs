//! Engines of one cluster in one process, each with its own loops, addresses and directories.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::iter;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lockstep_engine::core::{
    AttachMode, BlockRange, Command, CommandError, Config, Epoch, Generation, NodeId, Op, Reply, Settings, VolumeId,
    VoterId,
};
use lockstep_engine::{Engine, EngineConfig, NodeAddress, RequestResult, StartEngine, VolumeStatus};

/// Waits end here: far beyond every time limit of the core, so that only a bug reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// An address of one cluster of this process, at one of few ports. None of them is among the ports that the kernel gives
/// to outgoing connections: those of a crashed node stay free, also where its peers dial them all the while.
fn address(cluster: u32, offset: u32) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, u8::try_from(cluster).expect("few clusters") + 1, high, low);
    (host, 7000 + u16::try_from(offset).expect("few nodes")).into()
}

/// A cluster of three nodes, or more. The first two hold replicas, the third votes.
pub struct Cluster {
    dir: PathBuf,
    pub nodes: Vec<NodeAddress>,
    pub engines: BTreeMap<u32, Engine>,
}

impl Cluster {
    pub fn start(name: &str) -> Cluster {
        Cluster::start_with(name, 3)
    }

    pub fn start_with(name: &str, count: u32) -> Cluster {
        if std::env::var_os("LOCKSTEP_LOG").is_some() {
            let _ = tracing_subscriber::fmt().with_env_filter("debug").with_writer(std::io::stderr).try_init();
        }
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("lockstep-{name}-{}-{number}", std::process::id()));
        let nodes = (1..=count)
            .map(|id: u32| NodeAddress {
                id: NodeId(id),
                name: format!("n{id}"),
                ordinary: address(number, 2 * id),
                dedicated: Some(address(number, 2 * id + 1)),
            })
            .collect();
        let mut cluster = Cluster { dir, nodes, engines: BTreeMap::new() };
        (1..=count).for_each(|id| cluster.start_node(id));
        cluster
    }

    /// Gives the node new addresses, which it uses from its next start.
    pub fn move_node(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize - 1];
        for address in iter::once(&mut node.ordinary).chain(&mut node.dedicated) {
            address.set_port(address.port() + 1000);
        }
    }

    pub fn node_dir(&self, id: u32) -> PathBuf {
        self.dir.join(id.to_string())
    }

    pub fn start_node(&mut self, id: u32) {
        let pool = self.node_dir(id).join("pool");
        std::fs::create_dir_all(&pool).unwrap();
        let config = EngineConfig {
            node: NodeId(id),
            state_dir: self.node_dir(id).join("state"),
            psk: b"a secret of the tests".to_vec(),
            nodes: self.nodes.clone(),
            loops: 1,
            pool: Some(pool),
            leases: None,
        };
        // A run that has just ended holds its address until its ring is gone.
        let started = await_state(|| match Engine::start(config.clone()) {
            Err(StartEngine::Listen { source, .. }) if source.kind() == ErrorKind::AddrInUse => None,
            result => Some(result),
        });
        self.engines.insert(id, started.expect("its address becomes free").unwrap());
    }

    /// Ends an engine without leaving: to its peers it looks like a crash of the process.
    pub fn crash_node(&mut self, id: u32) {
        drop(self.engines.remove(&id));
    }

    pub fn create(&self, name: &str, blocks: u64) {
        let incarnation = |id: u32| self.engines[&id].identity().incarnation;
        let node = NodeId;
        let config = Config {
            volume: VolumeId([7; 16]),
            generation: Generation { id: 1, parent: 0 },
            epoch: Epoch(1),
            size_blocks: blocks,
            settings: Settings::default(),
            replicas: BTreeSet::from([node(1), node(2)]),
            tie_breaker: Some(node(3)),
            voters: [1, 2, 3].into_iter().map(|id| (node(id), VoterId(u64::from(id)))).collect(),
            in_sync: [1, 2].into_iter().map(|id| (node(id), incarnation(id))).collect(),
            joining: BTreeMap::new(),
            attached: BTreeMap::new(),
            last_in_sync: BTreeMap::new(),
            added: BTreeMap::new(),
            requests: BTreeMap::new(),
            priority: Default::default(),
        };
        for id in 1..=3 {
            self.engines[&id].create(name, config.clone(), id != 3).unwrap();
        }
    }

    pub fn command(&self, id: u32, name: &str, command: Command) -> Result<Reply, CommandError> {
        let pending = self.engines[&id].command(name, command).unwrap();
        pending.wait_for(PATIENCE).expect("commands are answered").expect("the engine runs")
    }

    pub fn attach(&self, id: u32, name: &str, take_over: bool) -> Result<Reply, CommandError> {
        self.command(
            id,
            name,
            Command::Attach { mode: AttachMode::ReadWrite, take_over, recoverable: false, class: None },
        )
    }

    pub fn request(&self, id: u32, name: &str, op: Op, range: BlockRange, data: Vec<u8>) -> RequestResult {
        let pending = self.engines[&id].request(name, op, range, data).unwrap();
        pending.wait_for(PATIENCE).expect("requests end").expect("the engine runs")
    }

    pub fn write(&self, id: u32, name: &str, block: u64, byte: u8) {
        let range = BlockRange::new(block, block + 1);
        self.request(id, name, Op::Write { fua: false }, range, vec![byte; 4096]).unwrap();
    }

    pub fn read(&self, id: u32, name: &str, range: BlockRange) -> Vec<u8> {
        self.request(id, name, Op::Read, range, Vec::new()).unwrap()
    }

    pub fn status(&self, id: u32, name: &str) -> VolumeStatus {
        self.engines[&id].status(name).unwrap().wait().unwrap()
    }

    /// Polls until the status is as wanted.
    pub fn await_status(&self, id: u32, name: &str, wanted: impl Fn(&VolumeStatus) -> bool) -> VolumeStatus {
        await_state(|| {
            let status = self.engines[&id].status(name).ok()?.wait()?;
            wanted(&status).then_some(status)
        })
        .unwrap_or_else(|| panic!("not reached: {:#?}", self.status(id, name)))
    }

    pub fn data(&self, id: u32, name: &str) -> Vec<u8> {
        std::fs::read(self.node_dir(id).join("pool").join(name).join("data")).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.engines.clear();
        let _ = std::fs::remove_dir_all(Path::new(&self.dir));
    }
}

/// Asks again and again until there is an answer, or patience ends.
pub fn await_state<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    None
}
