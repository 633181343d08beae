//! Volumes by the command line: created everywhere or nowhere, attached once, deleted for good, and every refusal exact.

mod common;

use common::{Ground, until};
use std::io::{Read as _, Write as _};

#[test]
fn wrong_input_is_named_and_creates_nothing() {
    let ground = Ground::start(3);
    let create = |options: &[&str]| {
        let mut words = vec!["--node", "a", "volume", "create"];
        words.extend_from_slice(options);
        ground.run(&words)
    };
    let long = "x".repeat(64);
    for (options, field) in [
        (&["v", "--size", "0"][..], "size"),
        (&["v", "--size", "4097"], "size"),
        (&["v", "--size", "900TiB"], "size"),
        (&["v", "--size", "many"], "size"),
        (&["a/b", "--size", "1MiB"], "name"),
        (&[&long, "--size", "1MiB"], "name"),
        (&["v", "--size", "1MiB", "--replicas", "4"], "replicas"),
        (&["v", "--size", "1MiB", "--replicas", "0"], "replicas"),
        (&["v", "--size", "1MiB", "--on", "a,z"], "on"),
        (&["v", "--size", "1MiB", "--on", "a,a"], "on"),
        (&["v", "--size", "1MiB", "--on", "a,b", "--replicas", "3"], "replicas"),
        (&["v", "--size", "1MiB", "--on", "a,b", "--tie-breaker", "b"], "tie_breaker"),
    ] {
        let error = create(options).error(2);
        assert_eq!((error["kind"].as_str(), error["field"].as_str()), (Some("wrong_input"), Some(field)), "{error}");
        assert!(!error["message"].as_str().unwrap_or_default().is_empty());
    }
    for node in ["a", "b", "c"] {
        assert!(ground.names(node).is_empty());
    }
    for words in [&["status"][..], &["attach"], &["detach"], &["verify"], &["delete"]] {
        let error = ground.run(&[&["--node", "a", "volume"], words, &["none"]].concat()).error(2);
        assert_eq!(error["field"], "volume", "{error}");
    }
    assert_eq!(ground.run(&["--node", "z", "volume", "list"]).error(2)["field"], "node");
    assert_eq!(ground.run(&["volume", "list"]).error(2)["field"], "node");
    assert_eq!(ground.run(&["--node", "a", "volume", "grow"]).error(2)["kind"], "wrong_input");
    let socket = ground.node_dir("a").join("none.sock");
    assert_eq!(ground.run(&["--node", &socket.to_string_lossy(), "volume", "list"]).error(4)["kind"], "not_reachable");
}

#[test]
fn a_repeated_request_gives_the_same_volume_and_another_is_refused() {
    let ground = Ground::start(3);
    let create = ["--node", "a", "volume", "create", "v", "--size", "64MiB", "--replicas", "2"];
    let first = ground.json(&create);
    assert_eq!(first["tie_breaker"], "c");
    assert_eq!(first["in_sync"], serde_json::json!(["a", "b"]));
    // By another node too, and by the path of its socket.
    let socket = ground.node_dir("c").join("node.sock");
    let mut again = create;
    again[1] = socket.to_str().expect("a path of ours");
    assert_eq!(ground.json(&again)["id"], first["id"]);
    let error = ground.run(&["--node", "b", "volume", "create", "v", "--size", "128MiB"]).error(3);
    assert_eq!(error["kind"], "state_forbids");
}

#[test]
fn a_volume_that_one_node_cannot_make_is_made_nowhere() {
    let ground = Ground::start(3);
    // A file of the volume's name is in the way in b's pool.
    let obstacle = ground.node_dir("b").join("pool/v");
    std::fs::write(&obstacle, "in the way").expect("writable");
    let answer = ground.run(&["--node", "a", "volume", "create", "v", "--size", "64MiB"]);
    assert_ne!(answer.code, 0, "{answer:?}");
    assert!(answer.stderr.contains("nothing created"), "{answer:?}");
    for node in ["a", "b", "c"] {
        assert!(ground.names(node).is_empty());
    }
    assert!(!ground.node_dir("a").join("pool/v").exists());
    std::fs::remove_file(&obstacle).expect("there");
    ground.json(&["--node", "a", "volume", "create", "v", "--size", "64MiB"]);
}

#[test]
fn a_creation_that_an_agent_did_not_finish_is_undone_by_its_next_run() {
    let ground = Ground::start(3);
    ground.json(&["--node", "a", "volume", "create", "v", "--size", "64MiB"]);
    // As if the agent had been killed just before it struck the intention out.
    let known = std::fs::read_to_string(ground.node_dir("a").join("volumes/v.json")).expect("remembered");
    ground.json(&["playground", "stop", "a"]);
    let unfinished = format!("{{\"create\": {{\"spec\": {known}}}}}");
    std::fs::write(ground.node_dir("a").join("unfinished/v-left.json"), unfinished).expect("writable");
    ground.json(&["playground", "restart", "a"]);
    until("nothing of the volume is left", || ["a", "b", "c"].iter().all(|node| ground.names(node).is_empty()));
    assert!(!ground.node_dir("b").join("pool/v").exists());
}

#[test]
fn an_attached_volume_is_refused_elsewhere_and_moves_after_a_detach() {
    let ground = Ground::start(3);
    ground.json(&["--node", "a", "volume", "create", "v", "--size", "64MiB"]);
    let attached = ground.json(&["--node", "a", "volume", "attach", "v", "--front-end", "nbd-socket"]);
    assert_eq!((attached["front_end"].as_str(), attached["export"].as_str()), (Some("nbd-socket"), Some("v")));
    // The same again is the same attachment, another kind is refused.
    assert_eq!(ground.json(&["--node", "a", "volume", "attach", "v", "--front-end", "nbd-socket"]), attached);
    ground.run(&["--node", "a", "volume", "attach", "v", "--front-end", "loop"]).error(3);

    let error = ground.run(&["--node", "b", "volume", "attach", "v"]).error(3);
    assert_eq!((error["kind"].as_str(), error["holder"].as_str()), (Some("state_forbids"), Some("a")), "{error}");
    assert_eq!(ground.run(&["--node", "c", "volume", "delete", "v"]).error(3)["holder"], "a");
    assert_eq!(ground.json(&["--node", "a", "volume", "detach", "v"])["was_attached"], true);
    assert_eq!(ground.json(&["--node", "a", "volume", "detach", "v"])["was_attached"], false);

    let attached = ground.json(&["--node", "b", "volume", "attach", "v", "--front-end", "loop"]);
    let device = attached["device"].as_str().expect("a device");
    assert_eq!(device, ground.node_dir("b").join("dev/v").to_string_lossy());
    ground.json(&["--node", "a", "volume", "resize", "v", "--size", "128MiB"]);
    until("the device has grown", || {
        let mut end = std::fs::File::open(device).expect("a device");
        std::io::Seek::seek(&mut end, std::io::SeekFrom::End(0)).expect("it has an end") == 128 << 20
    });
    assert_eq!(ground.run(&["--node", "b", "volume", "resize", "v", "--size", "64MiB"]).error(2)["field"], "size");
    let verified = ground.json(&["--node", "b", "volume", "verify", "v"]);
    assert_eq!((verified["done"].as_bool(), verified["identical"].as_bool()), (Some(true), Some(true)));
    ground.json(&["--node", "b", "volume", "detach", "v"]);
    assert!(!std::path::Path::new(device).exists());
    ground.run(&["--node", "b", "volume", "force", "v"]).error(2);
    ground.json(&["--node", "c", "volume", "delete", "v"]);
    assert!(ground.names("a").is_empty());
}

#[test]
fn a_node_without_a_part_attaches_without_data() {
    let ground = Ground::start(4);
    ground.json(&["--node", "a", "volume", "create", "v", "--size", "64MiB"]);
    assert_eq!(ground.json(&["--node", "d", "volume", "status", "v"])["state"], "Elsewhere");
    ground.json(&["--node", "d", "volume", "attach", "v", "--front-end", "nbd-socket"]);
    let status = ground.json(&["--node", "d", "volume", "status", "v"]);
    assert_eq!(status["this_node"]["attached"], "rw", "{status}");
    assert_eq!(status["this_node"]["role"], "diskless", "{status}");
    ground.json(&["--node", "d", "volume", "detach", "v"]);
}

#[test]
fn an_absent_node_deletes_its_part_when_it_is_back() {
    let ground = Ground::start(3);
    ground.json(&["--node", "a", "volume", "create", "v", "--size", "64MiB"]);
    ground.json(&["playground", "kill", "b", "--whole-node"]);
    assert_eq!(ground.run(&["--node", "a", "volume", "delete", "v"]).error(4)["kind"], "not_reachable");
    assert_eq!(ground.names("a"), ["v"]);
    let deleted = ground.json(&["--node", "a", "volume", "delete", "v", "--allow-absent"]);
    assert_eq!(deleted["pending_nodes"], serde_json::json!(["b"]));
    assert!(ground.names("a").is_empty());
    ground.json(&["playground", "restart", "b"]);
    until("b has deleted its part", || ground.names("b").is_empty());
    assert!(!ground.node_dir("b").join("pool/v").exists());
}

#[test]
fn a_pool_with_foreign_files_is_refused_and_the_node_still_votes() {
    let ground = Ground::start(3);
    let foreign = ground.beside("foreign");
    std::fs::create_dir(&foreign).expect("writable");
    std::fs::write(foreign.join("letter.txt"), "mine").expect("writable");
    ground.json(&["playground", "stop", "b"]);
    let file = ground.node_dir("b").join("cluster.toml");
    let pool = ground.node_dir("b").join("pool");
    let text = std::fs::read_to_string(&file).expect("readable");
    let text = text.replace(&*pool.to_string_lossy(), &foreign.to_string_lossy());
    std::fs::write(&file, text).expect("writable");
    ground.json(&["playground", "restart", "b"]);

    let pool = ground.json(&["--node", "b", "pool"]);
    assert_eq!(pool["ready"], false);
    assert!(pool["reason"].as_str().is_some_and(|reason| reason.contains("letter.txt")), "{pool}");
    let error = ground.run(&["--node", "a", "volume", "create", "v", "--size", "64MiB", "--on", "a,b"]).error(3);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("letter.txt")), "{error}");
    assert_eq!(std::fs::read_dir(&foreign).expect("readable").count(), 1);
    let status = ground.json(&["--node", "a", "volume", "create", "v", "--size", "64MiB"]);
    assert_eq!(status["tie_breaker"], "b");
}

#[test]
fn documented_metrics_are_served() {
    let ground = Ground::start(1);
    let node = ground.json(&["--node", "a", "node"]);
    let port = u16::try_from(node["metrics_port"].as_u64().expect("a port")).expect("a port");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("served");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("received");
    let documented = include_str!("../../docs/metrics.md");
    let served: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(served.contains(&"lockstep_volumes"), "{text}");
    for name in served {
        // Tables abbreviate names of a row: the last part must be there.
        let end = name.strip_prefix("lockstep").expect("our prefix");
        assert!(documented.contains(name) || documented.contains(end), "{name} is not documented");
    }
}
