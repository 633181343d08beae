//! A namespace for Leases, and what the user who is no administrator may do in it.

use crate::credentials::USER;
use crate::{ApiServer, new_runtime};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

/// Role and binding.
const NAME: &str = "lockstep";

impl ApiServer {
    /// Makes a namespace.
    ///
    /// Blocks, like [`start`](Self::start); the others here too.
    pub fn make_namespace(&self, namespace: &str) -> Result<()> {
        let object = serde_json::from_value(json!({ "metadata": { "name": namespace } })).context("a namespace")?;
        self.with_client(async |client| {
            let namespaces: Api<Namespace> = Api::all(client);
            namespaces.create(&PostParams::default(), &object).await.map(drop)
        })
        .with_context(|| format!("make the namespace {namespace}"))
    }

    /// Lets the user do with the Leases of a namespace what Lockstep is documented to need.
    pub fn allow(&self, namespace: &str) -> Result<()> {
        let role = json!({
            "metadata": { "name": NAME },
            "rules": [{
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["get", "list", "watch", "create", "update", "delete"],
            }],
        });
        let binding = json!({
            "metadata": { "name": NAME },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER }],
        });
        let role: Role = serde_json::from_value(role).context("a role")?;
        let binding: RoleBinding = serde_json::from_value(binding).context("a binding")?;
        self.with_client(async |client| {
            Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &role).await?;
            Api::namespaced(client, namespace).create(&PostParams::default(), &binding).await.map(drop)
        })
        .context("give the user rights")
    }

    /// Takes all rights away again.
    pub fn forbid(&self, namespace: &str) -> Result<()> {
        self.with_client(async |client| {
            let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
            bindings.delete(NAME, &DeleteParams::default()).await?;
            let roles: Api<Role> = Api::namespaced(client, namespace);
            roles.delete(NAME, &DeleteParams::default()).await.map(drop)
        })
        .context("take the user's rights away")
    }

    fn with_client(&self, ask: impl AsyncFnOnce(Client) -> kube::Result<()>) -> Result<()> {
        new_runtime()?.block_on(async { Ok(ask(self.client().await?).await?) })
    }
}
