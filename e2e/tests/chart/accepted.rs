//! A real API server takes everything that the chart makes, and takes it again.

use anyhow::{Result, ensure};
use lockstep_e2e::turn::turn;

use crate::cluster::TestCluster;
use crate::documents::objects;
use crate::helm::NEWEST;

#[test]
fn a_real_server_takes_every_object() -> Result<()> {
    let _turn = turn();
    let cluster = TestCluster::start()?;
    let all = objects(NEWEST, &[r#"namespace={"create":true}"#])?.len();
    let dry = cluster.apply(&["--dry-run=server"])?;
    ensure!(dry.lines().count() == all, "{all} objects, and the server answered\n{dry}");
    cluster.apply(&[])?;
    // An upgrade to the same changes nothing that a server would refuse.
    cluster.apply(&[])?;
    Ok(())
}
