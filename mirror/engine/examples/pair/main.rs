//! Runs one node of a cluster of two on loopback addresses, with one volume, for measuring. Usage:
//! `pair DIR NODE(1|2) PORT SIZE_MIB [loop|loop-uring|nbd]`; node 1 attaches. Ends when its standard input ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use lockstep_engine::core::{
    AttachMode, Command, Config, Epoch, Generation, Incarnation, NodeId, Settings, VolumeId, VoterId,
};
use lockstep_engine::{Engine, EngineConfig, FrontEndKind, FuseKind, NodeAddress};

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().collect();
    let dir = PathBuf::from(&args[1]);
    let node = NodeId(args[2].parse().expect("node"));
    let port: u16 = args[3].parse().expect("port");
    let mib: u64 = args[4].parse().expect("size");
    let nodes = [1, 2].map(|id| NodeAddress {
        id: NodeId(id),
        name: format!("n{id}"),
        ordinary: format!("127.77.0.{id}:{port}").parse().expect("address"),
        dedicated: None,
    });
    let pool = dir.join("pool");
    std::fs::create_dir_all(&pool).expect("pool");
    let engine = Engine::start(EngineConfig {
        node,
        state_dir: dir.join("state"),
        psk: b"measuring".to_vec(),
        nodes: nodes.to_vec(),
        loops: 1,
        pool: Some(pool),
    })
    .expect("start");
    if engine.list().is_empty() {
        let config = Config {
            volume: VolumeId([7; 16]),
            generation: Generation { id: 1, parent: 0 },
            epoch: Epoch(1),
            size_blocks: mib * 256,
            settings: Settings::default(),
            replicas: BTreeSet::from([NodeId(1), NodeId(2)]),
            tie_breaker: None,
            voters: BTreeMap::from([(NodeId(1), VoterId(1)), (NodeId(2), VoterId(2))]),
            in_sync: BTreeMap::from([(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(1))]),
            joining: BTreeMap::new(),
            attached: BTreeMap::new(),
            last_in_sync: BTreeMap::new(),
            requests: BTreeMap::new(),
        };
        engine.create("v", config, true).expect("create");
    }
    if let Some(kind) = args.get(5) {
        let mode = AttachMode::ReadWrite;
        let attach = Command::Attach { mode, take_over: true, recoverable: false };
        engine.command("v", attach).expect("volume").wait().expect("engine").expect("attach");
        let kind = match kind.as_str() {
            "loop" => FrontEndKind::Loop { fuse: FuseKind::Recoverable },
            "loop-uring" => FrontEndKind::Loop { fuse: FuseKind::IoUring },
            _ => FrontEndKind::NbdSocket { path: dir.join("nbd.sock") },
        };
        println!("{:?}", engine.start_front_end("v", kind).expect("front end"));
    } else {
        println!("running");
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    println!("{:#?}", engine.status("v").expect("volume").wait());
    engine.stop_front_end("v", false).expect("stop");
    engine.shutdown(Duration::from_secs(5));
}
