//! Every object that the chart makes is one of Kubernetes' own types, to the last field: of the oldest version that the chart is for, and of
//! the newest that is tried.
//!
//! Those types drop fields that they do not know. So what was read is written again, and nothing may be missing.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::documents::{VARIANTS, name, objects};
use crate::helm::{Kubernetes, NEWEST, OLDEST};

/// Types of one version: a function that reads an object as the type that its kind names, and writes it again.
macro_rules! version {
    ($name:ident, $api:ident, [$($($module:ident)::+ . $kind:ident),+ $(,)?]) => {
        fn $name(object: &Value) -> Result<Value> {
            use $api::Resource;
            let (version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
            $({
                type Kind = $api::$($module)::+::$kind;
                if version == Some(Kind::API_VERSION) && kind == Some(Kind::KIND) {
                    let read: Kind = serde_json::from_value(object.clone())?;
                    return Ok(serde_json::to_value(read)?);
                }
            })+
            bail!("there is no type of {version:?} {kind:?}")
        }
    };
}

macro_rules! versions {
    ($($kinds:tt)*) => {
        version!(as_oldest, k8s_openapi, [$($kinds)*]);
        version!(as_newest, k8s_openapi_newer, [$($kinds)* api::storage::v1.VolumeAttributesClass]);
    };
}

versions! {
    api::admissionregistration::v1.ValidatingAdmissionPolicy,
    api::admissionregistration::v1.ValidatingAdmissionPolicyBinding,
    api::apps::v1.DaemonSet,
    api::apps::v1.Deployment,
    api::batch::v1.Job,
    api::core::v1.ConfigMap,
    api::core::v1.Namespace,
    api::core::v1.PersistentVolumeClaim,
    api::core::v1.Pod,
    api::core::v1.Secret,
    api::core::v1.ServiceAccount,
    api::flowcontrol::v1.FlowSchema,
    api::policy::v1.PodDisruptionBudget,
    api::rbac::v1.ClusterRole,
    api::rbac::v1.ClusterRoleBinding,
    api::rbac::v1.Role,
    api::rbac::v1.RoleBinding,
    api::storage::v1.CSIDriver,
    api::storage::v1.StorageClass,
    apiextensions_apiserver::pkg::apis::apiextensions::v1.CustomResourceDefinition,
}

/// What of `given` is not in `kept`, by its path.
fn find_lost(given: &Value, kept: &Value, path: &str, lost: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            // A field that is null is one that is not there.
            for (field, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                find_lost(value, kept.get(field).unwrap_or(&Value::Null), &format!("{path}.{field}"), lost);
            }
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            for (at, (given, kept)) in given.iter().zip(kept).enumerate() {
                find_lost(given, kept, &format!("{path}[{at}]"), lost);
            }
        }
        // Limits of numbers are kept as such with a point.
        (Value::Number(given), Value::Number(kept)) if given.as_f64() == kept.as_f64() => {}
        _ if given == kept => {}
        _ => lost.push(format!("{path}: {given} became {kept}")),
    }
}

fn check(kubernetes: Kubernetes, read: fn(&Value) -> Result<Value>) -> Result<()> {
    let mut lost = Vec::new();
    for (variant, values) in VARIANTS {
        let objects = objects(kubernetes, values).with_context(|| format!("rendered {variant}"))?;
        ensure!(!objects.is_empty(), "{variant}: nothing");
        for object in objects {
            let name = name(&object);
            match read(&object) {
                Ok(kept) => find_lost(&object, &kept, &format!("{variant}: {name}"), &mut lost),
                Err(error) => lost.push(format!("{variant}: {name}: {error:#}")),
            }
        }
    }
    ensure!(lost.is_empty(), "{lost:#?}");
    Ok(())
}

#[test]
fn the_oldest_kubernetes_knows_every_field() -> Result<()> {
    check(OLDEST, as_oldest)
}

#[test]
fn the_newest_kubernetes_knows_every_field() -> Result<()> {
    check(NEWEST, as_newest)
}

#[test]
fn a_field_that_is_not_known_is_found() -> Result<()> {
    let given = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "nmaespace": "b" }, "dota": {},
    });
    let mut lost = Vec::new();
    find_lost(&given, &as_oldest(&given)?, "it", &mut lost);
    ensure!(lost.len() == 2 && lost[0].contains("dota") && lost[1].contains("nmaespace"), "{lost:?}");
    Ok(())
}
