//! Lockstep is not uninstalled while anything of a volume is left, and may be as soon as nothing is.

mod setup;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, DeleteParams, PostParams};
use lockstep_api::{MirrorVolume, names};
use serde_json::json;
use setup::{Setup, request};

const GIB: i64 = 1 << 30;

/// Whether it may be uninstalled, and what is said.
fn check(kubeconfig: &Path) -> Result<(bool, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep-controller"));
    let output =
        command.arg("uninstall-check").arg("--kubeconfig").arg(kubeconfig).output().context("run the check")?;
    let said = String::from_utf8(output.stderr)?;
    println!("{}: {said}", output.status);
    Ok((output.status.success(), said))
}

impl Setup {
    fn may_be_uninstalled(&self) -> Result<(bool, String)> {
        check(self.server.kubeconfig())
    }
}

#[test]
fn nothing_is_uninstalled_while_anything_of_a_volume_is_left() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    ensure!(setup.may_be_uninstalled()?.0, "there is nothing yet");
    let one = setup.controller_with_pools("one")?;
    setup.wait_pools(3)?;
    let csi = one.csi();
    setup.run(csi.create_in_the_end(request("pvc-1", GIB, Some("a"), &[])))?;
    let persistent: PersistentVolume = serde_json::from_value(json!({
        "metadata": { "name": "pv-1" },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" },
            "claimRef": { "namespace": "shop", "name": "data" },
            "csi": { "driver": names::DRIVER, "volumeHandle": "pvc-1" },
        },
    }))?;
    let persistents: Api<PersistentVolume> = Api::all(setup.client.clone());
    setup.run(persistents.create(&PostParams::default(), &persistent))?;
    let (allowed, said) = setup.may_be_uninstalled()?;
    ensure!(!allowed && said.contains("claim shop/data: volume pvc-1"), "{said}");
    ensure!(said.contains("kubectl -n shop delete persistentvolumeclaim data"), "{said}");

    // It is deleted; one of its nodes is away, and has its part still.
    let away = setup.parts("pvc-1")?.pop().context("a part")?.spec.node_name;
    setup.nodes.set_away(&away, true);
    setup.run(setup.all::<MirrorVolume>().delete("pvc-1", &DeleteParams::default()))?;
    setup.until("only the node that is away is left", || Ok((setup.parts("pvc-1")?.len() == 1).then_some(())))?;
    setup.until("it is said who is waited for", || {
        let (allowed, said) = setup.may_be_uninstalled()?;
        ensure!(!allowed && said.contains("volume pvc-1 is being deleted"), "{said}");
        Ok(said.contains(&format!("{away} will delete what it has when it is back")).then_some(()))
    })?;
    setup.nodes.set_away(&away, false);
    setup.wait_gone("pvc-1")?;
    // The provisioner would let go of it; none runs here.
    let (allowed, said) = setup.may_be_uninstalled()?;
    ensure!(!allowed && said.contains("persistent volume pv-1: there is no volume pvc-1"), "{said}");
    setup.run(persistents.delete("pv-1", &DeleteParams::default()))?;
    ensure!(setup.may_be_uninstalled()?.0);
    Ok(())
}

#[test]
fn who_may_not_look_concludes_nothing() -> Result<()> {
    let setup = Setup::start(&[])?;
    let (allowed, said) = check(setup.server.user_kubeconfig())?;
    ensure!(!allowed && said.contains("list volumes") && said.contains("forbidden"), "{said}");
    Ok(())
}
