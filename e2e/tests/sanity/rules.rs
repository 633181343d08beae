//! What the specification demands and drivers get wrong, case by case, over the whole of it.

use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use lockstep_csi_conformance::Target;
use lockstep_e2e::turn::turn;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cluster::TestCluster;

/// The kernel lets a mounted ext4 grow only for who has CAP_SYS_RESOURCE, which the root of some machines lacks. The node's own tests say what
/// happens then.
const GROWS_MOUNTED: &str = "capacity::t22_a_staged_file_system_grows";
const CAP_SYS_RESOURCE: u32 = 24;

macro_rules! run_each {
    ($($module:ident::$case:ident,)*) => {
        async fn run_each(cluster: &TestCluster, failed: &mut Vec<String>) -> Result<()> {
            $(
                let name = concat!(stringify!($module), "::", stringify!($case));
                if applies(name)? {
                    let target = target(cluster, stringify!($case))?;
                    match lockstep_csi_conformance::$module::$case(&target).await {
                        Ok(()) => println!("{name}: ok"),
                        Err(error) => failed.push(format!("{name}: {error:#}")),
                    }
                }
            )*
            Ok(())
        }
    };
}

lockstep_csi_conformance::for_each_case!(run_each);

#[test]
fn the_rules_that_drivers_get_wrong_are_kept() -> Result<()> {
    let _turn = turn();
    let cluster = TestCluster::start(&["n1", "n2", "n3"])?;
    let mut failed = Vec::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run_each(&cluster, &mut failed))?;
    if !failed.is_empty() {
        bail!("{}\n{}", failed.join("\n"), cluster.said());
    }
    cluster.wait_empty()
}

fn applies(name: &str) -> Result<bool> {
    if name != GROWS_MOUNTED {
        return Ok(true);
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no capabilities")?;
    let has = u64::from_str_radix(effective.trim(), 16)? >> CAP_SYS_RESOURCE & 1 == 1;
    if !has {
        println!("{name}: skipped: this machine's root cannot grow a mounted ext4");
    }
    Ok(has)
}

fn target(cluster: &TestCluster, case: &str) -> Result<Target> {
    let directory = cluster.dir().join("rules").join(case);
    std::fs::create_dir_all(&directory)?;
    Ok(Target {
        controller: channel(&cluster.controller_socket()),
        node: channel(&cluster.node("n1")?.csi_socket()),
        directory,
        parameters: [("replicas".to_owned(), "2".to_owned())].into(),
        other_parameters: [("replicas".to_owned(), "3".to_owned())].into(),
        mutable_parameter: ("writePriority".to_owned(), "high".to_owned()),
        no_room_bytes: 1 << 45,
        driver: "csi.lockstep.storage".to_owned(),
    })
}

/// A channel to a unix socket, connected when it is first used.
fn channel(path: &Path) -> Channel {
    let path = path.to_owned();
    // The address is never looked up.
    Endpoint::from_static("http://unix.invalid").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    }))
}
