//! Running Helm.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lockstep_processes::command::{Ended, PROGRAM_BOUND, program, run, run_ok};

/// Where Lockstep is installed.
pub const NAMESPACE: &str = "lockstep-system";
/// Where each node has a Lease.
pub const NODE_NAMESPACE: &str = "lockstep-system-nodes";

/// The oldest Kubernetes that the chart is for, and the newest that is tried, with the optional APIs of each.
pub const OLDEST: Kubernetes = Kubernetes { version: "1.33.0", apis: &[] };
/// See [`OLDEST`].
pub const NEWEST: Kubernetes = Kubernetes { version: "1.36.0", apis: &["storage.k8s.io/v1/VolumeAttributesClass"] };

/// A Kubernetes that the chart is rendered for.
#[derive(Clone, Copy, Debug)]
pub struct Kubernetes {
    /// Its version.
    pub version: &'static str,
    /// Optional APIs that it serves.
    pub apis: &'static [&'static str],
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The chart's directory.
pub fn chart() -> String {
    root().join("charts/lockstep").to_string_lossy().into_owned()
}

/// A program that `scripts/kube-programs` builds.
pub fn kube_program(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("LOCKSTEP_KUBE_PROGRAMS") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let script = root().join("scripts/kube-programs");
            PathBuf::from(run_ok(&mut program(&script.to_string_lossy(), ["where"]))?.trim_end())
        }
    };
    let path = directory.join(name);
    ensure!(path.is_file(), "no {name} in {}: run scripts/kube-programs build apiserver chart", directory.display());
    Ok(path)
}

/// Runs Helm, whatever comes of it.
pub fn helm(arguments: &[&str]) -> Result<Ended> {
    run(&mut program(&kube_program("helm")?.to_string_lossy(), arguments), PROGRAM_BOUND)
}

/// What `helm template` makes of the chart with these values, each `key=JSON`; or what it says against them.
pub fn template(kubernetes: Kubernetes, values: &[&str]) -> Result<Ended> {
    let chart = chart();
    let mut arguments = vec!["template", "lockstep", &chart, "--namespace", NAMESPACE];
    arguments.extend(["--kube-version", kubernetes.version]);
    arguments.extend(kubernetes.apis.iter().flat_map(|api| ["--api-versions", *api]));
    arguments.extend(values.iter().flat_map(|value| ["--set-json", *value]));
    helm(&arguments)
}
