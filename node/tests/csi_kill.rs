//! The program of the node port is killed after each of its steps, and in the middle of mkfs: whoever repeats the call, or gives up, comes to
//! the same end.

mod common;
mod csi;

use common::Ground;
use csi::{Host, block, create, ext4, xfs};
use lockstep_csi::capability::Capability;
use lockstep_node::csi::step::{Step, StepWatch};
use nix::sys::signal::{Signal, killpg};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Where the program that is to be killed finds what to do.
const VARIABLE: &str = "LOCKSTEP_TEST_KILLED_AT";

/// What the killed program does: everything, until it is killed.
fn cycle(host: &Host, wanted: &Capability) {
    host.stage("v", wanted).expect("staged");
    host.publish("v", "p", wanted, true).expect("published");
    host.unpublish("v", "p").expect("unpublished");
    host.unstage("v").expect("unstaged");
}

fn end_group() {
    // The programs that it runs die with it, as they do with their container.
    killpg(nix::unistd::getpgrp(), Signal::SIGKILL).expect("it is ours");
}

fn capability(name: &str) -> Capability {
    match name {
        "ext4" => ext4(),
        "xfs" => xfs(),
        _ => block(),
    }
}

/// Run by the other tests of this file as a program of its own; without their word it does nothing.
#[test]
fn the_program_that_is_killed() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let words: Vec<&str> = text.split('\n').collect();
    let [state, dir, name, step, delay_us] = words[..] else { panic!("{words:?}") };
    let step = Step::ALL[step.parse::<usize>().expect("a number")];
    let delay = Duration::from_micros(delay_us.parse().expect("a number"));
    let watch = StepWatch::new(move |done| {
        if done != step {
            return;
        }
        match delay.is_zero() {
            true => end_group(),
            false => drop(std::thread::spawn(move || {
                // Not a wait for anything: the kill is to come in the middle of what follows the step.
                std::thread::park_timeout(delay);
                end_group();
            })),
        }
    });
    let host = Host::watched(&PathBuf::from(state), &PathBuf::from(dir), "a", watch);
    cycle(&host, &capability(name));
}

/// Runs the program until it is killed after `step`, or so much later.
fn kill_after(ground: &Ground, name: &str, step: Step, delay: Duration) -> ExitStatus {
    let position = Step::ALL.iter().position(|other| *other == step).expect("one of them");
    let (state, dir) = (ground.node_dir("a"), ground.beside("kubelet-a"));
    let text = format!("{}\n{}\n{name}\n{position}\n{}", state.display(), dir.display(), delay.as_micros());
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_program_that_is_killed"])
        .env(VARIABLE, text)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .status()
        .expect("it runs")
}

/// Kubelet repeats the call that did not end, and goes on from there.
fn replay(host: &Host, wanted: &Capability, step: Step) {
    if step < Step::UnpublishUnbound {
        if step < Step::PublishRecorded {
            host.stage("v", wanted).expect("staged");
        }
        host.publish("v", "p", wanted, true).expect("published");
        let target = host.target("p");
        match wanted.mount() {
            Some(_) => assert!(std::fs::write(target.join("file"), "x").is_err(), "it is published for reading"),
            None => assert!(std::fs::read_dir(host.staging("v")).expect("there").next().is_none()),
        }
    }
    give_up(host, step);
}

/// Kubelet gives the pod up.
fn give_up(host: &Host, step: Step) {
    if step < Step::UnstageUnmounted {
        host.unpublish("v", "p").expect("unpublished");
    }
    host.unstage("v").expect("unstaged");
    assert_eq!(host.left_behind(), Vec::<String>::new(), "after {step:?}");
}

#[test]
fn whatever_step_was_the_last_the_call_can_be_repeated_or_given_up() {
    let ground = Ground::start(2);
    for step in Step::ALL {
        for gives_up in [false, true] {
            // A new volume each time: what is made only once, like the file system, is made.
            create(&ground, "v", "64MiB");
            let name = if step == Step::PublishLoopMade { "block" } else { "ext4" };
            let ended = kill_after(&ground, name, step, Duration::ZERO);
            assert_eq!(ended.signal(), Some(Signal::SIGKILL as i32), "{step:?} is not reached: {ended}");
            let host = Host::of(&ground, "a");
            match gives_up {
                true => give_up(&host, step),
                false => replay(&host, &capability(name), step),
            }
            // It is as usable as any.
            cycle(&host, &capability(name));
            assert_eq!(host.left_behind(), Vec::<String>::new(), "after {step:?}");
            ground.json(&["--node", "a", "volume", "delete", "v"]);
        }
    }
}

#[test]
fn a_mkfs_that_was_killed_in_the_middle_is_done_again_here_and_elsewhere() {
    let ground = Ground::start(2);
    let (mut killed, mut finished) = (0, 0);
    for name in ["ext4", "xfs"] {
        for delay_ms in [1, 3, 6, 10, 15, 25, 40, 60] {
            create(&ground, "v", "512MiB");
            let ended = kill_after(&ground, name, Step::StageRecorded, Duration::from_millis(delay_ms));
            match ended.signal() {
                Some(_) => killed += 1,
                None => finished += 1,
            }
            let a = Host::of(&ground, "a");
            let wanted = capability(name);
            if delay_ms % 2 == 0 {
                a.stage("v", &wanted).expect("staged");
            }
            give_up(&a, Step::StageRecorded);
            let b = Host::of(&ground, "b");
            b.stage("v", &wanted).expect("staged elsewhere");
            std::fs::write(b.staging("v").join("file"), "x").expect("writable");
            b.unstage("v").expect("unstaged");
            assert_eq!(b.left_behind(), Vec::<String>::new());
            ground.json(&["--node", "a", "volume", "delete", "v"]);
        }
    }
    assert!(killed > finished, "{killed} were killed in the middle, {finished} had finished");
}
