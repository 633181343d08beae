//! Kinds of objects that an API server does not know by itself.

use std::time::Duration;

use crate::{ApiServer, new_runtime};
use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use lockstep_processes::wait;

/// For a kind to be served, on a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(90);

impl ApiServer {
    /// Makes these kinds known, and waits until their objects can be listed: established ones are refused for a moment still.
    ///
    /// Blocks, like [`start`](Self::start).
    pub fn define(&self, definitions: &[CustomResourceDefinition]) -> Result<()> {
        let runtime = new_runtime()?;
        let client = runtime.block_on(self.client())?;
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in definitions {
            let created = runtime.block_on(api.create(&PostParams::default(), definition));
            created.with_context(|| format!("define {}", definition.name_any()))?;
        }
        for definition in definitions {
            let name = definition.name_any();
            let established = runtime.block_on(async {
                let established = await_condition(api.clone(), &name, conditions::is_crd_established());
                tokio::time::timeout(SERVED_WITHIN, established).await
            });
            let found = established.with_context(|| format!("{name} is not established"))??;
            ensure!(found.is_some(), "{name} is gone");
            let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource(definition));
            wait::until_true(&format!("{name} are served"), SERVED_WITHIN, || {
                Ok(runtime.block_on(objects.list(&ListParams::default())).is_ok())
            })?;
        }
        Ok(())
    }
}

fn resource(definition: &CustomResourceDefinition) -> ApiResource {
    let (group, names) = (&definition.spec.group, &definition.spec.names);
    let version = definition.spec.versions.first().map(|version| version.name.clone()).unwrap_or_default();
    ApiResource {
        api_version: format!("{group}/{version}"),
        group: group.clone(),
        version,
        kind: names.kind.clone(),
        plural: names.plural.clone(),
    }
}
