//! Runs three engines in one process, with one volume of two replicas that the first has attached, for measuring. Usage:
//! `pair DIR PORT SIZE_MIB loop|loop-uring|nbd`. Ends when its standard input ends, and prints the volume's status.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use lockstep_engine::core::{AttachMode, Command, Config, Epoch, Generation, NodeId, Settings, VolumeId, VoterId};
use lockstep_engine::{Engine, EngineConfig, FrontEndKind, FuseKind, NodeAddress};

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().collect();
    let dir = PathBuf::from(&args[1]);
    let port: u16 = args[2].parse().expect("port");
    let mib: u64 = args[3].parse().expect("size");
    let kind = match args[4].as_str() {
        "loop" => FrontEndKind::Loop { fuse: FuseKind::Recoverable },
        "loop-uring" => FrontEndKind::Loop { fuse: FuseKind::IoUring },
        _ => FrontEndKind::NbdSocket { path: dir.join("nbd.sock") },
    };
    let address = |ip: &str, id: u32| format!("127.{ip}.0.{id}:{port}").parse().expect("address");
    let nodes = [1, 2, 3].map(|id| NodeAddress {
        id: NodeId(id),
        name: format!("n{id}"),
        ordinary: address("77", id),
        dedicated: Some(address("78", id)),
    });
    let engines = [1, 2, 3].map(|id| {
        let pool = dir.join(id.to_string());
        std::fs::create_dir_all(&pool).expect("pool");
        Engine::start(EngineConfig {
            node: NodeId(id),
            state_dir: dir.join(format!("state-{id}")),
            psk: b"measuring".to_vec(),
            nodes: nodes.to_vec(),
            loops: 1,
            pool: Some(pool),
            leases: None,
        })
        .expect("start")
    });
    let voters = [1, 2, 3].map(|id| (NodeId(id), VoterId(u64::from(id))));
    let config = Config {
        volume: VolumeId([7; 16]),
        generation: Generation { id: 1, parent: 0 },
        epoch: Epoch(1),
        size_blocks: mib * 256,
        settings: Settings::default(),
        replicas: BTreeSet::from([NodeId(1), NodeId(2)]),
        tie_breaker: Some(NodeId(3)),
        voters: voters.into_iter().collect(),
        in_sync: engines[..2].iter().map(|engine| (engine.identity().node, engine.identity().incarnation)).collect(),
        joining: BTreeMap::new(),
        attached: BTreeMap::new(),
        last_in_sync: BTreeMap::new(),
        added: BTreeMap::new(),
        requests: BTreeMap::new(),
        priority: Default::default(),
    };
    for engine in &engines {
        engine.create("v", config.clone(), engine.identity().node != NodeId(3)).expect("create");
    }
    let attach = Command::Attach { mode: AttachMode::ReadWrite, take_over: true, recoverable: false, class: None };
    engines[0].command("v", attach).expect("volume").wait().expect("engine").expect("attach");
    println!("{:?}", engines[0].start_front_end("v", kind).expect("front end"));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    println!("{:#?}", engines[0].status("v").expect("volume").wait());
    print!("{}", engines[0].metrics_text());
    engines[0].stop_front_end("v", false).expect("stop");
    engines.into_iter().for_each(|engine| engine.shutdown(Duration::from_secs(1)));
}
