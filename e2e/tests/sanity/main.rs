//! The CSI services as Kubernetes meets them: a real API server, the controller, three nodes with engines and agents; and csi-sanity, as it
//! is, against the sockets of the controller and of one node.

mod cluster;
mod node;
mod rules;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::TestCluster;
use lockstep_e2e::command::{program, run, run_ok};
use lockstep_e2e::turn::turn;

/// For one run of csi-sanity: some seventy calls, each of which makes or deletes a volume on three nodes.
const SANITY_BOUND: Duration = Duration::from_secs(30 * 60);

/// Sizes of the volumes that it makes, and to which it grows them: small, but large enough for every file system.
const SIZE_BYTES: &str = "67108864";
const GROWN_BYTES: &str = "134217728";

/// What is skipped, and why: a part of the specification that Lockstep does not advertise. Nothing else may be.
const SKIPPED: &[(&str, &str)] = &[
    ("Snapshot", "there are no snapshots yet"),
    ("source snapshot", "there are no snapshots yet"),
    ("GroupController", "there are no groups of snapshots yet"),
    ("source volume", "there are no clones yet"),
    ("ControllerPublishVolume", "attaching is a part of staging"),
    ("ControllerUnpublishVolume", "attaching is a part of staging"),
    ("volume lifecycle", "it is that of ControllerPublishVolume"),
];

/// As many specs apply, at least. Fewer, and something of what is advertised got lost.
const PASSED_MIN: usize = 60;

fn sanity_program() -> Result<PathBuf> {
    let dir = match std::env::var_os("LOCKSTEP_KUBE_PROGRAMS") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/kube-programs");
            PathBuf::from(run_ok(&mut program(script, ["where"]))?.trim_end())
        }
    };
    let path = dir.join("csi-sanity");
    ensure!(path.is_file(), "no csi-sanity in {}: run scripts/kube-programs build sanity", dir.display());
    Ok(path)
}

#[test]
fn csi_sanity_finds_nothing_wrong() -> Result<()> {
    let _turn = turn();
    let cluster = TestCluster::start(&["n1", "n2", "n3"])?;
    for access in ["mount", "block"] {
        sanity(&cluster, access)?;
        cluster.wait_empty().with_context(|| format!("after csi-sanity with volumes of type {access}"))?;
    }
    Ok(())
}

/// Runs csi-sanity, with volumes of this access type.
fn sanity(cluster: &TestCluster, access: &str) -> Result<()> {
    let dir = cluster.dir().join(format!("sanity-{access}"));
    std::fs::create_dir_all(&dir)?;
    let (parameters, mutable) = (dir.join("parameters.yaml"), dir.join("mutable.yaml"));
    std::fs::write(&parameters, "replicas: \"2\"\n")?;
    std::fs::write(&mutable, "writePriority: high\n")?;
    let mut command =
        program(sanity_program()?.to_str().context("a path of ours")?, ["--ginkgo.v", "--ginkgo.no-color"]);
    command
        .arg("--csi.endpoint")
        .arg(cluster.node("n1")?.csi_socket())
        .arg("--csi.controllerendpoint")
        .arg(cluster.controller_socket())
        .arg("--csi.mountdir")
        .arg(dir.join("mount"))
        .arg("--csi.stagingdir")
        .arg(dir.join("staging"))
        .arg("--csi.testvolumeparameters")
        .arg(parameters)
        .arg("--csi.testvolumemutableparameters")
        .arg(mutable)
        .args(["--csi.testvolumesize", SIZE_BYTES, "--csi.testvolumeexpandsize", GROWN_BYTES])
        .args(["--csi.testvolumeaccesstype", access]);
    let ended = run(&mut command, SANITY_BOUND)?;
    let said = || format!("{}\n{}\n{}", ended.stdout, ended.stderr, cluster.said());
    ensure!(ended.status.success(), "csi-sanity ({access}) failed:\n{}", said());
    let passed = passed_specs(&ended.stdout).with_context(|| format!("no summary of csi-sanity\n{}", said()))?;
    ensure!(passed >= PASSED_MIN, "only {passed} specs of csi-sanity ({access}) were run\n{}", said());
    println!("{access}: {passed} specs passed");
    for skipped in skipped_specs(&ended.stdout) {
        let reason = SKIPPED.iter().find(|(word, _)| skipped.contains(word)).map(|(_, reason)| reason);
        let reason =
            reason.with_context(|| format!("csi-sanity ({access}) skipped {skipped:?}, which applies\n{}", said()))?;
        println!("{access}: skipped: {skipped}: {reason}");
    }
    Ok(())
}

/// Of the summary: `SUCCESS! -- 63 Passed | 0 Failed | ...`.
fn passed_specs(output: &str) -> Option<usize> {
    let summary = output.lines().find_map(|line| line.strip_prefix("SUCCESS! -- "))?;
    summary.split(' ').next()?.parse().ok()
}

/// Names of the specs that were skipped: the lines after their marks.
fn skipped_specs(output: &str) -> Vec<String> {
    let mut lines = output.lines();
    let mut names = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("S [SKIPPED]") {
            names.extend(lines.next().map(str::to_owned));
        }
    }
    names
}
