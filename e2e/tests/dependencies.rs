//! Who may know whom: fails on any dependency edge between crates that `docs/design.md` does not allow, and on
//! any way by which the core could reach I/O.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Normal dependencies, each crate with what it may name itself. Whatever those name comes with them.
const ALLOWED: &[(&str, &[&str])] = &[
    ("lockstep-core", &[]),
    ("lockstep-format", &["lockstep-core"]),
    ("lockstep-engine", &["lockstep-format", "lockstep-core"]),
    ("lockstep-sim", &["lockstep-format", "lockstep-core"]),
    ("lockstep-leases", &["lockstep-format", "lockstep-core"]),
    ("lockstep-proto", &[]),
    ("lockstep-api", &[]),
    ("lockstep-csi", &["lockstep-proto"]),
    // It makes registers as engines read them: the core's words for a configuration.
    ("lockstep-controller", &["lockstep-api", "lockstep-csi", "lockstep-leases", "lockstep-core", "lockstep-proto"]),
    // What any plugin is held to: it knows the wire only.
    ("lockstep-csi-conformance", &["lockstep-proto"]),
    (
        "lockstep-node",
        &[
            "lockstep-api",
            "lockstep-csi",
            "lockstep-engine",
            "lockstep-leases",
            "lockstep-format",
            "lockstep-core",
            "lockstep-proto",
        ],
    ),
    // The simulator for its checker of histories.
    ("lockstep-e2e", &["lockstep-proto", "lockstep-processes", "lockstep-sim"]),
    // What stands in for nothing: real programs, started by tests.
    ("lockstep-apiserver", &["lockstep-processes"]),
    ("lockstep-processes", &[]),
    ("lockstep-cluster", &["lockstep-processes"]),
    ("lockstep-kubectl", &["lockstep-api"]),
];

/// What any crate's tests may use: the simulator's checker of histories, and real programs beside them; the core's words, and Leases, for
/// the suite that every kind of policing passes.
const FOR_TESTS: &[&str] = &[
    "lockstep-sim",
    "lockstep-apiserver",
    "lockstep-processes",
    "lockstep-core",
    "lockstep-leases",
    "lockstep-api",
    "lockstep-csi-conformance",
];

/// What must not be reachable from a crate, by whatever path.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "lockstep-core",
        &[
            "tokio",
            "kube",
            "tonic",
            "prost",
            "hyper",
            "mio",
            "libc",
            "nix",
            "rustix",
            "io-uring",
            "getrandom",
            "rand",
            "socket2",
        ],
    ),
    ("lockstep-format", &["tokio", "kube", "tonic", "prost", "hyper", "mio", "nix", "io-uring", "socket2"]),
    ("lockstep-engine", &["kube", "tonic", "prost"]),
    ("lockstep-csi", &["kube", "k8s-openapi", "io-uring", "nix"]),
    ("lockstep-sim", &["tokio", "kube", "tonic", "prost", "io-uring", "nix", "getrandom", "socket2"]),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        // Only this platform's packages: the others' need not have been downloaded.
        .other_options(vec![
            "--locked".to_owned(),
            format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH),
        ])
        .exec()
        .expect("cargo metadata answers")
}

/// Package name -> names of its dependencies of a kind that `wanted` accepts, resolved for this machine.
fn edges(metadata: &Metadata, wanted: impl Fn(DependencyKind) -> bool) -> BTreeMap<String, BTreeSet<String>> {
    let resolve = metadata.resolve.as_ref().expect("metadata was asked for with dependencies");
    let name = |id| metadata[id].name.to_string();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in &resolve.nodes {
        let named = edges.entry(name(&node.id)).or_default();
        for dependency in &node.deps {
            if dependency.dep_kinds.iter().any(|kind| wanted(kind.kind)) {
                named.insert(name(&dependency.pkg));
            }
        }
    }
    edges
}

fn workspace_names(metadata: &Metadata) -> BTreeSet<String> {
    metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect()
}

/// Everything that `start` reaches.
fn reachable(edges: &BTreeMap<String, BTreeSet<String>>, start: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![start.to_owned()];
    while let Some(name) = open.pop() {
        for next in edges.get(&name).into_iter().flatten() {
            if found.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    found
}

#[test]
fn every_crate_of_the_workspace_has_a_rule() {
    let ruled: BTreeSet<String> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut members = workspace_names(&metadata());
    members.retain(|name| name.starts_with("lockstep-"));
    assert_eq!(members, ruled, "a crate without a rule, or a rule without a crate");
}

#[test]
fn crates_depend_only_in_the_allowed_direction() {
    let metadata = metadata();
    let members = workspace_names(&metadata);
    let normal = edges(&metadata, |kind| kind == DependencyKind::Normal);
    let all = edges(&metadata, |_| true);
    let mut forbidden = Vec::new();
    for (name, allowed) in ALLOWED {
        let may = |other: &String| allowed.contains(&other.as_str());
        for other in normal[*name].intersection(&members).filter(|other| !may(other)) {
            forbidden.push(format!("{name} -> {other}"));
        }
        let may_in_tests = |other: &String| may(other) || FOR_TESTS.contains(&other.as_str()) || other == name;
        for other in all[*name].intersection(&members).filter(|other| !may_in_tests(other)) {
            forbidden.push(format!("{name} -> {other} (tests or build)"));
        }
    }
    assert!(forbidden.is_empty(), "edges that the architecture does not allow: {forbidden:#?}");
}

#[test]
fn pure_crates_do_not_reach_io() {
    let metadata = metadata();
    let normal = edges(&metadata, |kind| kind == DependencyKind::Normal);
    let mut found = Vec::new();
    for (name, forbidden) in FORBIDDEN {
        let reached = reachable(&normal, name);
        found.extend(forbidden.iter().filter(|it| reached.contains(**it)).map(|it| format!("{name} reaches {it}")));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn core_is_without_the_standard_library_and_without_unsafe() {
    let source = include_str!("../../mirror/core/src/lib.rs");
    assert!(source.contains("no_std"), "lockstep-core must be no_std: that is what keeps I/O and clocks out");
    assert!(source.contains("#![forbid(unsafe_code)]"), "lockstep-core must forbid unsafe code");
}

#[test]
fn only_the_simulator_asks_for_the_broken_variants() {
    let metadata = metadata();
    let asking: BTreeSet<String> = metadata
        .workspace_packages()
        .iter()
        .filter(|package| {
            package
                .dependencies
                .iter()
                .any(|it| it.name == "lockstep-core" && it.features.iter().any(|it| it == "broken"))
        })
        .map(|package| package.name.to_string())
        .collect();
    assert_eq!(asking, BTreeSet::from(["lockstep-sim".to_owned()]), "the programs must not contain them");
    let core =
        metadata.workspace_packages().into_iter().find(|it| it.name == "lockstep-core").expect("there is a core");
    assert!(!core.features.get("default").is_some_and(|it| it.iter().any(|it| it == "broken")), "nor by default");
}
