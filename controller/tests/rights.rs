//! The controller runs with the rights, the policies and the configuration of the chart, and nothing more.

mod setup;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, TypeMeta};
use lockstep_api::names;
use lockstep_apiserver::Serves;
use serde_json::{Value, json};
use setup::{NAMESPACE, Setup, request};

const GIB: i64 = 1 << 30;

/// What the chart makes.
fn manifests() -> Result<Vec<Value>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/lockstep.yaml");
    let text = std::fs::read_to_string(path).context("read what the chart makes")?;
    let documents = text.split("\n---\n").filter(|text| text.lines().any(|line| line.starts_with("kind: ")));
    documents.map(|text| serde_saphyr::from_str(text).with_context(|| format!("understand {text}"))).collect()
}

/// What concerns the controller: its accounts, rights, policies and Deployment, by kind.
const KINDS: [(&str, &str); 8] = [
    ("ServiceAccount", "serviceaccounts"),
    ("ClusterRole", "clusterroles"),
    ("ClusterRoleBinding", "clusterrolebindings"),
    ("Role", "roles"),
    ("RoleBinding", "rolebindings"),
    ("Deployment", "deployments"),
    ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
];

impl Setup {
    /// Installs that, and gives the controller's configuration.
    fn install(&self) -> Result<String> {
        let plurals: BTreeMap<&str, &str> = KINDS.into();
        let mut config = None;
        for object in manifests()? {
            let object: DynamicObject = serde_json::from_value(object)?;
            let kind = object.types.clone().context("it has a kind")?;
            if kind.kind == "ConfigMap" && object.name_any() == "lockstep-config" {
                config = object.data["data"]["config.yaml"].as_str().map(str::to_owned);
            }
            if let Some(plural) = plurals.get(kind.kind.as_str()) {
                self.apply(&kind, plural, &object)?;
            }
        }
        config.context("the chart makes the controller's configuration")
    }

    fn apply(&self, kind: &TypeMeta, plural: &str, object: &DynamicObject) -> Result<()> {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::try_from(kind)?, plural);
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let how = PatchParams::apply("helm").force();
        let name = object.name_any();
        self.run(api.patch(&name, &how, &Patch::Apply(object))).with_context(|| format!("{} {name}", kind.kind))?;
        Ok(())
    }

    /// A kubeconfig file of an account of the chart.
    fn account(&self, name: &str) -> Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let asked: TokenRequest = serde_json::from_value(json!({ "spec": { "audiences": [] } }))?;
        let given = self.run(accounts.create_token_request(name, &PostParams::default(), &asked))?;
        let token = given.status.context("a token")?.token;
        let text = std::fs::read_to_string(self.server.kubeconfig())?;
        let mut value: Value = serde_saphyr::from_str(&text).context("understand the kubeconfig file")?;
        value["users"][0]["user"] = json!({ "token": token });
        let path = self.home().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, value.to_string())?;
        Ok(path)
    }
}

fn pod(name: &str, spec: &Value) -> Result<Pod> {
    let mut whole = json!({
        "serviceAccountName": "lockstep-guard", "automountServiceAccountToken": false,
        "containers": [{ "name": "guard", "image": "i", "securityContext": { "allowPrivilegeEscalation": false } }],
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let metadata = json!({ "name": name, "labels": { names::LABEL_GUARD: name } });
    Ok(serde_json::from_value(json!({ "metadata": metadata, "spec": whole }))?)
}

#[test]
fn the_controller_works_with_the_rights_of_the_chart_and_can_make_guards_only() -> Result<()> {
    let setup = Setup::start_serving(Serves::Everything, &["a", "b", "c"])?;
    let config = setup.install()?;
    let account = setup.account("lockstep-controller")?;
    let one = setup.controller_as("one", &config, &account)?;
    setup.wait_pools(3)?;
    let pods: Api<Pod> = Api::namespaced(setup.plain_client(&account)?, NAMESPACE);
    setup.until("every node has a guard", || {
        let guards = setup.run(pods.list(&Default::default()))?.items;
        Ok((guards.len() == 3).then_some(()))
    })?;
    setup.run(one.csi().create_in_the_end(request("pvc-1", GIB, Some("a"), &[])))?;

    let check = |account: &str| -> Result<bool> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep-controller"));
        let output = command.arg("uninstall-check").arg("--kubeconfig").arg(setup.account(account)?).output()?;
        println!("{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.status.success())
    };
    ensure!(!check("lockstep-uninstall")?, "there is a volume");
    setup.run(one.csi().delete_in_the_end("pvc-1"))?;
    setup.wait_gone("pvc-1")?;
    ensure!(check("lockstep-uninstall")?, "there is none");
    ensure!(!check("lockstep-guard")?, "it may not look");

    let privileged = json!([{ "name": "guard", "image": "i", "securityContext": { "privileged": true } }]);
    let added = json!([{ "name": "guard", "image": "i", "securityContext": {
        "allowPrivilegeEscalation": false, "capabilities": { "add": ["SYS_ADMIN"] },
    } }]);
    let host = json!([{ "name": "host", "hostPath": { "path": "/" } }]);
    // A policy may take a moment to be in force.
    setup.until("what is no guard is refused", || {
        match setup
            .run(pods.create(&PostParams::default(), &pod("x", &json!({ "serviceAccountName": "lockstep-node" }))?))
        {
            Err(kube::Error::Api(status)) if status.message.contains("guards of nodes only") => Ok(Some(())),
            Ok(_) => {
                // The controller itself may have taken it away: it guards no node.
                let _ = setup.run(pods.delete("x", &Default::default()));
                Ok(None)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => bail!("{error}"),
        }
    })?;
    for (spec, says) in [
        (json!({ "hostNetwork": true }), "nothing of its node"),
        (json!({ "volumes": host }), "nothing of its node"),
        (json!({ "containers": privileged }), "no privileges"),
        (json!({ "containers": added }), "no privileges"),
        (json!({ "automountServiceAccountToken": true }), "guards of nodes only"),
    ] {
        let refused = setup.run(pods.create(&PostParams::default(), &pod("x", &spec)?));
        ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains(says)), "{spec}: {refused:?}");
    }
    setup.run(pods.create(&PostParams::default(), &pod("x", &json!({}))?)).context("a guard is made")?;
    Ok(())
}
