//! The chart, as Helm and a real API server see it: what its values may be, what it makes of them, and what the accounts of its programs may
//! do in a cluster.
//!
//! Helm, kubectl, etcd and kube-apiserver come from `scripts/kube-programs`.

mod accepted;
mod cluster;
mod decode;
mod documents;
mod edits;
mod helm;
mod policies;
mod rows;
mod values;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use helm::{chart, helm, root};
use lockstep_processes::command::{program, run_ok};

#[test]
fn helm_finds_nothing_wrong() -> Result<()> {
    let said = helm(&["lint", "--strict", &chart()])?;
    ensure!(said.status.success(), "{said}");
    Ok(())
}

/// What `scripts/manifests check` says too, without building anything.
#[test]
fn manifests_are_what_the_chart_makes() -> Result<()> {
    let script = root().join("scripts/manifests");
    let made = run_ok(&mut program(&script.to_string_lossy(), ["print"]))?;
    let committed = std::fs::read_to_string(root().join("manifests/lockstep.yaml"))?;
    let different = made.lines().zip(committed.lines()).enumerate().find(|(_, (made, committed))| made != committed);
    ensure!(different.is_none() && made.len() == committed.len(), "run `make manifests`: {different:?}");
    Ok(())
}

#[test]
fn definitions_are_those_of_the_types() -> Result<()> {
    let directory = root().join("charts/lockstep/definitions");
    let definitions = lockstep_api::definitions();
    for definition in &definitions {
        let path = directory.join(format!("{}.json", definition.spec.names.plural));
        let committed = std::fs::read_to_string(&path)?;
        let made = serde_json::to_string_pretty(definition)?;
        ensure!(committed.trim_end() == made, "{}: run `make manifests`", path.display());
    }
    ensure!(files(&directory)?.len() == definitions.len(), "a definition of no type: {:?}", files(&directory)?);
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}
