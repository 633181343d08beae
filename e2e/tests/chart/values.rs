//! What the chart's values may be.

use anyhow::{Result, ensure};

use crate::helm::{Kubernetes, NEWEST, OLDEST, template};

/// A value that is refused, and the field that the message names.
const REFUSED: &[(&str, &str)] = &[
    (r#"imagee={"tag":"1"}"#, "imagee"),
    (r#"image={"registry":"registry.example/"}"#, "registry"),
    (r#"image={"tag":"a tag"}"#, "tag"),
    (r#"image={"pullPolicy":"Sometimes"}"#, "pullPolicy"),
    (r#"nodeNamespace="Nodes""#, "nodeNamespace"),
    (r#"kubeletDir="kubelet""#, "kubeletDir"),
    (r#"stateDir="/""#, "stateDir"),
    (r#"stateDir="/var/../lib""#, "stateDir"),
    (r#"key={"existingSecret":"My_Key"}"#, "existingSecret"),
    (r#"key={"psk":"00"}"#, "psk"),
    (r#"pools={"default":{"directory":"/pool","device":"/dev/sdb"}}"#, "pools/default"),
    (r#"pools={"default":null,"nodes":{"a":{}}}"#, "pools/nodes/a"),
    (r#"pools={"nodes":{"a":{"directory":"pool"}}}"#, "pools/nodes/a/directory"),
    (r#"pools={"nodes":{"a":{"device":"/srv/disk"}}}"#, "pools/nodes/a/device"),
    (r#"pools={"nodes":{"A_B":null}}"#, "A_B"),
    (r#"extraPoolDirectories=["/a","/a"]"#, "extraPoolDirectories"),
    (r#"network={"port":80}"#, "network/port"),
    (r#"network={"dedicated":"198.51.100.7"}"#, "network/dedicated"),
    (r#"network={"mtls":{"enabled":true}}"#, "network/mtls"),
    (r#"log={"format":"xml"}"#, "log/format"),
    (r#"engine={"resources":{"limits":{"memory":"1Gi"}}}"#, "memory"),
    (r#"node={"tolerations":[{"operator":"Always"}]}"#, "operator"),
    (r#"controller={"replicas":0}"#, "controller/replicas"),
    (r#"controller={"overcommit":0}"#, "controller/overcommit"),
    (r#"controller={"replaceAfter":"soon"}"#, "controller/replaceAfter"),
    (r#"controller={"failOver":{"nodeLeaseStaleAfter":6}}"#, "nodeLeaseStaleAfter"),
    (r#"provisioner={"image":"csi-provisioner"}"#, "provisioner/image"),
    (r#"storageClasses=[{"parameters":{}}]"#, "name"),
    (r#"storageClasses=[{"name":"a","parameters":{"replicas":2}}]"#, "parameters/replicas"),
    (r#"storageClasses=[{"name":"a","parameters":{"replicas":"4"}}]"#, "parameters/replicas"),
    (r#"storageClasses=[{"name":"a","parameters":{"arbiter":"raft"}}]"#, "parameters/arbiter"),
    (r#"storageClasses=[{"name":"a","parameters":{"frontEnd":"ublk"}}]"#, "parameters/frontEnd"),
    (r#"storageClasses=[{"name":"a","parameters":{"mirrors":"2"}}]"#, "mirrors"),
    (r#"volumeAttributesClasses=[{"name":"a","parameters":{}}]"#, "volumeAttributesClasses/0/parameters"),
    (r#"volumeAttributesClasses=[{"name":"a","parameters":{"resyncRate":"fast"}}]"#, "resyncRate"),
    (r#"flowSchema={"matchingPrecedence":0}"#, "matchingPrecedence"),
    (r#"uninstallGuard={"enabled":"maybe"}"#, "uninstallGuard/enabled"),
    (r#"test={"size":"large"}"#, "test/size"),
];

#[test]
fn a_wrong_value_is_refused_by_name() -> Result<()> {
    let mut missed = Vec::new();
    for (value, field) in REFUSED {
        let said = template(NEWEST, &[value])?;
        if said.status.success() {
            missed.push(format!("{value} is taken"));
        } else if !said.stderr.contains("schema") || !said.stderr.contains(field) {
            missed.push(format!("{value}: {field} is not named: {}", said.stderr.trim()));
        }
    }
    ensure!(missed.is_empty(), "{missed:#?}");
    Ok(())
}

#[test]
fn an_old_kubernetes_is_refused() -> Result<()> {
    let said = template(Kubernetes { version: "1.32.9", ..OLDEST }, &[])?;
    ensure!(!said.status.success() && said.stderr.contains("1.33"), "{said}");
    Ok(())
}

#[test]
fn the_controller_is_told_of_pools_as_the_values_say_them() -> Result<()> {
    let pools = r#"pools={"default":null,"nodes":{"a":{"device":"/dev/sdb"},"b":null}}"#;
    let said = template(NEWEST, &[pools])?;
    ensure!(said.status.success(), "{said}");
    for line in ["      default: null", "          device: /dev/sdb", "        b: null"] {
        ensure!(said.stdout.lines().any(|it| it == line), "no line {line:?} in\n{}", said.stdout);
    }
    Ok(())
}
