//! The programs of a playground: started, disturbed, ended, and nothing of them left behind.

mod common;

use common::{Ground, is_alive, loops_under, mounts_under, signal, until};
use nix::sys::signal::Signal;
use std::process::{Command, Stdio};

const PROGRAMS: [&str; 3] = ["supervisor", "worker", "agent"];

fn words(ground: &Ground, node: &str) -> [String; 3] {
    let state = ground.processes(node);
    PROGRAMS.map(|program| state[program].as_str().expect("a word").to_owned())
}

#[test]
fn nodes_are_killed_paused_stopped_and_started_again() {
    let ground = Ground::start(3);
    assert_eq!(words(&ground, "a"), ["running", "running", "running"]);

    ground.json(&["playground", "kill", "a"]);
    assert_eq!(words(&ground, "a"), ["running", "exited", "running"]);
    let supervisor = ground.pid("a", "supervisor");
    ground.json(&["playground", "restart", "a"]);
    assert_eq!(words(&ground, "a"), ["running", "running", "running"]);
    assert_eq!(ground.pid("a", "supervisor"), supervisor, "only the worker was started again");

    ground.json(&["playground", "pause", "a"]);
    assert_eq!(words(&ground, "a"), ["running", "paused", "running"]);
    assert_eq!(ground.run(&["--node", "a", "volume", "list"]).error(4)["kind"], "not_reachable");
    assert_eq!(ground.run(&["playground", "restart", "a"]).error(3)["kind"], "state_forbids");
    assert_eq!(ground.run(&["playground", "stop", "a"]).error(3)["kind"], "state_forbids");
    ground.json(&["playground", "resume", "a"]);
    assert_eq!(words(&ground, "a"), ["running", "running", "running"]);

    ground.json(&["playground", "kill", "b", "--whole-node"]);
    assert_eq!(words(&ground, "b"), ["exited", "exited", "exited"]);
    assert_eq!(ground.run(&["--node", "b", "volume", "list"]).error(4)["kind"], "not_reachable");
    ground.json(&["playground", "restart", "b", "--whole-node"]);
    assert_eq!(words(&ground, "b"), ["running", "running", "running"]);

    ground.json(&["playground", "pause", "c", "--whole-node"]);
    assert_eq!(words(&ground, "c"), ["paused", "paused", "paused"]);
    ground.json(&["playground", "resume", "c", "--whole-node"]);
    ground.json(&["playground", "stop", "c"]);
    assert_eq!(words(&ground, "c"), ["stopped", "stopped", "stopped"]);
    assert_eq!(ground.run(&["playground", "pause", "c"]).error(3)["kind"], "state_forbids");

    // Started once more, it takes up what is missing.
    ground.json(&["playground", "start", "--nodes", "3"]);
    assert_eq!(words(&ground, "c"), ["running", "running", "running"]);
    assert_eq!(ground.run(&["playground", "start", "--nodes", "2"]).error(3)["kind"], "state_forbids");
}

#[test]
fn a_destroyed_playground_leaves_nothing() {
    let ground = Ground::start(3);
    ground.json(&["--node", "a", "volume", "create", "v", "--size", "64MiB"]);
    let attached = ground.json(&["--node", "a", "volume", "attach", "v", "--front-end", "loop"]);
    let device = attached["device"].as_str().expect("a device").to_owned();
    let made = Command::new("mkfs.ext4").args(["-q", &device]).status().expect("mkfs.ext4 runs");
    assert!(made.success());
    let point = ground.beside("mounted");
    std::fs::create_dir(&point).expect("writable");
    assert!(Command::new("mount").arg(&device).arg(&point).status().expect("mount runs").success());
    assert_eq!(ground.run(&["--node", "a", "volume", "detach", "v"]).error(3)["kind"], "state_forbids");
    let pids: Vec<i64> = ["a", "b", "c"]
        .into_iter()
        .flat_map(|node| PROGRAMS.map(|program| (node, program)))
        .map(|(node, program)| ground.pid(node, program))
        .collect();

    ground.json(&["playground", "destroy"]);
    assert!(!ground.dir.exists());
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
    until("no loop device is left", || loops_under(&ground.dir).is_empty());
    assert!(mounts_under(&ground.dir).is_empty() && mounts_under(&point).is_empty());
    ground.json(&["playground", "destroy"]);
}

#[test]
fn a_worker_outlives_its_supervisor_and_is_adopted_by_the_next() {
    let ground = Ground::start(1);
    let (supervisor, worker) = (ground.pid("a", "supervisor"), ground.pid("a", "worker"));
    signal(supervisor, Signal::SIGKILL);
    until("the supervisor is gone", || !is_alive(supervisor));
    assert_eq!(words(&ground, "a"), ["exited", "running", "running"]);
    ground.json(&["playground", "restart", "a"]);
    assert_eq!(words(&ground, "a"), ["running", "running", "running"]);
    assert_eq!(ground.pid("a", "worker"), worker);

    // The new supervisor notices the end of a worker that is not its child, and can start another.
    ground.json(&["playground", "kill", "a"]);
    ground.json(&["playground", "restart", "a"]);
    assert_ne!(ground.pid("a", "worker"), worker);
    ground.json(&["playground", "stop", "a"]);
}

#[test]
fn a_crashed_worker_is_started_again_if_the_supervisor_shall() {
    let ground = Ground::start(1);
    ground.json(&["playground", "stop", "a"]);
    let state = ground.node_dir("a");
    let mut supervisor = Command::new(env!("CARGO_BIN_EXE_lockstep-engine"))
        .arg("--state-dir")
        .arg(&state)
        .args(["--node", "a", "--restart"])
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let worker = || {
        let text = std::fs::read_to_string(state.join("worker.pid")).ok()?;
        text.lines().next()?.parse::<i64>().ok().filter(|pid| is_alive(*pid))
    };
    until("a worker runs", || worker().is_some() && state.join("engine.sock").exists());
    let first = worker().expect("it runs");
    signal(first, Signal::SIGKILL);
    until("another worker runs", || worker().is_some_and(|pid| pid != first));
    signal(i64::from(supervisor.id()), Signal::SIGTERM);
    assert!(supervisor.wait().expect("it is ours").success(), "a clean end is a success");
    assert!(worker().is_none());
}

#[test]
fn two_programs_do_not_share_a_state_directory() {
    let ground = Ground::start(1);
    for program in [env!("CARGO_BIN_EXE_lockstep-engine"), env!("CARGO_BIN_EXE_lockstep-node")] {
        let output = Command::new(program).arg("--state-dir").arg(ground.node_dir("a")).args(["--node", "a"]).output();
        let answer = common::answer(output.expect("it starts"));
        assert_eq!(answer.code, 1);
        assert!(answer.stderr.contains("another"), "{answer:?}");
    }
    assert_eq!(words(&ground, "a"), ["running", "running", "running"]);
}
