//! What the chart makes, as objects.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::helm::{Kubernetes, template};

/// Values that each turn something on or off that the chart's own do not.
pub const VARIANTS: &[(&str, &[&str])] = &[
    ("the chart's own values", &[]),
    ("with its namespace", &[r#"namespace={"create":true}"#]),
    (
        "as little as can be",
        &[
            r#"admissionPolicies={"enabled":false}"#,
            r#"flowSchema={"enabled":false}"#,
            r#"uninstallGuard={"enabled":false}"#,
            r#"controller={"replicas":1,"podDisruptionBudget":{"enabled":false},"failOver":{"enabled":false},"tolerations":[]}"#,
            r#"node={"tolerations":[]}"#,
            r#"pools={"default":null}"#,
            "storageClasses=[]",
            "volumeAttributesClasses=[]",
        ],
    ),
    (
        "as much as can be",
        &[
            r#"image={"registry":"registry.example/lockstep","tag":"1","pullPolicy":"Always","pullSecrets":["one","two"]}"#,
            r#"nodeNamespace="elsewhere""#,
            r#"key={"existingSecret":"key"}"#,
            r#"pools={"default":{"directory":"/srv/pool"},"nodes":{"a":{"device":"/dev/sdb"},"b":null},"nodeSelector":{"disk":"yes"}}"#,
            r#"extraPoolDirectories=["/srv/other"]"#,
            r#"network={"port":9000,"metricsPort":9100,"dedicated":"198.51.100.0/24"}"#,
            r#"log={"filter":"debug","format":"json"}"#,
            r#"node={"nodeSelector":{"storage":"yes"},"image":{"tag":"2"}}"#,
            r#"engine={"resources":{"limits":{"cpu":"2"}}}"#,
            r#"controller={"nodeSelector":{"control":"yes"},"overcommit":1.5,"replaceAfter":"1h 30m"}"#,
            r#"storageClasses=[{"name":"all","default":true,"reclaimPolicy":"Retain","volumeBindingMode":"Immediate",
                "allowVolumeExpansion":false,"mountOptions":["discard"],
                "allowedTopologies":[{"matchLabelExpressions":[{"key":"topology.csi.lockstep.storage/node","values":["a"]}]}],
                "parameters":{"replicas":"3","arbiter":"peers","policing":"peer","ack":"durable","onQuorumLoss":"error",
                "poolSelector":"disk=yes","remoteAccess":"false","frontEnd":"loop","fuse":"io_uring",
                "csi.storage.k8s.io/fstype":"xfs"}}]"#,
        ],
    ),
];

/// Everything that the chart makes with these values, hooks too.
pub fn objects(kubernetes: Kubernetes, values: &[&str]) -> Result<Vec<Value>> {
    let said = template(kubernetes, values)?;
    ensure!(said.status.success(), "{said}");
    parse(&said.stdout)
}

/// The objects of a YAML text. Numbers are read as Kubernetes reads them, where 0400 is octal.
fn parse(text: &str) -> Result<Vec<Value>> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let all: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).context("the chart makes YAML")?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}

/// Kind, namespace and name.
pub fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}
