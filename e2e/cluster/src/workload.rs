//! Claims and pods, as a user writes them.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::collector::Collector;

/// How a claim is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A file system.
    Filesystem,
    /// The bare device.
    Block,
}

/// A claim.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its StorageClass.
    pub class: String,
    /// How it is used.
    pub mode: Mode,
    /// `ReadWriteOnce` and the like.
    pub access: String,
    /// Like `1Gi`.
    pub size: String,
}

impl Claim {
    /// A file system of 1 GiB for one node, in the default class.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            class: "lockstep".to_owned(),
            mode: Mode::Filesystem,
            access: "ReadWriteOnce".to_owned(),
            size: "1Gi".to_owned(),
        }
    }

    /// In this class.
    #[must_use]
    pub fn class(self, class: &str) -> Self {
        Self { class: class.to_owned(), ..self }
    }

    /// The bare device.
    #[must_use]
    pub fn block(self) -> Self {
        Self { mode: Mode::Block, ..self }
    }

    /// With this access mode.
    #[must_use]
    pub fn access(self, access: &str) -> Self {
        Self { access: access.to_owned(), ..self }
    }

    /// Of this size.
    #[must_use]
    pub fn size(self, size: &str) -> Self {
        Self { size: size.to_owned(), ..self }
    }

    fn spec(&self) -> Value {
        json!({
            "accessModes": [self.access],
            "volumeMode": match self.mode { Mode::Filesystem => "Filesystem", Mode::Block => "Block" },
            "storageClassName": self.class,
            "resources": {"requests": {"storage": self.size}},
        })
    }

    /// The object.
    #[must_use]
    pub fn object(&self, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": self.name, "namespace": namespace},
            "spec": self.spec(),
        })
    }
}

/// What a pod does with its claim, mounted at `/data` or as device `/dev/volume`.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The claim's name and how it is used.
    pub claim: (String, Mode),
    /// The node on which it has to run, if any.
    pub node: Option<String>,
    /// The node on which it runs if it can, if any.
    pub preferred_node: Option<String>,
    /// Its command.
    pub command: Vec<String>,
    /// Published read-only.
    pub read_only: bool,
}

impl Pod {
    /// A pod that only waits: for `kubectl exec`.
    #[must_use]
    pub fn idle(name: &str, claim: &Claim) -> Self {
        Self {
            name: name.to_owned(),
            claim: (claim.name.clone(), claim.mode),
            node: None,
            preferred_node: None,
            command: vec!["sleep".to_owned(), "infinity".to_owned()],
            read_only: false,
        }
    }

    /// A pod that keeps a ledger on its claim.
    #[must_use]
    pub fn recorder(name: &str, claim: &Claim, collector: &Collector) -> Self {
        let path = match claim.mode {
            Mode::Filesystem => "/data/ledger",
            Mode::Block => "/dev/volume",
        };
        let collector = collector.address.to_string();
        let command = ["recorder", "--path", path, "--name", name, "--collector", &collector];
        Self { command: command.map(str::to_owned).to_vec(), ..Self::idle(name, claim) }
    }

    /// From this byte of its device on: several ledgers on one.
    #[must_use]
    pub fn at_offset(mut self, bytes: u64) -> Self {
        self.command.extend(["--offset".to_owned(), bytes.to_string()]);
        self
    }

    /// On this node if it can be.
    #[must_use]
    pub fn preferring(self, node: &str) -> Self {
        Self { preferred_node: Some(node.to_owned()), ..self }
    }

    /// On this node.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self }
    }

    fn spec(&self, image: &str) -> Value {
        let mut container = json!({
            "name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": self.command,
        });
        match self.claim.1 {
            Mode::Filesystem => {
                container["volumeMounts"] =
                    json!([{"name": "volume", "mountPath": "/data", "readOnly": self.read_only}]);
            }
            Mode::Block => container["volumeDevices"] = json!([{"name": "volume", "devicePath": "/dev/volume"}]),
        }
        let mut spec = json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": self.claim.0}}],
        });
        if let Some(node) = &self.node {
            spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        }
        if let Some(node) = &self.preferred_node {
            let there = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
            spec["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "preference": {"matchExpressions": [there]}},
            ]}});
        }
        spec
    }

    /// The object.
    #[must_use]
    pub fn object(&self, cluster: &Cluster, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": namespace},
            "spec": self.spec(&cluster.tools_image),
        })
    }

    /// A StatefulSet of one such pod, whose claim is made from a template: pod `<name>-0`, claim `<claim>-<name>-0`.
    #[must_use]
    pub fn stateful_set(&self, cluster: &Cluster, namespace: &str, claim: &Claim) -> Value {
        let mut spec = self.spec(&cluster.tools_image);
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("volumes");
        }
        let labels = json!({"app": self.name});
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": self.name, "namespace": namespace},
            "spec": {
                "serviceName": self.name, "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
                "volumeClaimTemplates": [{"metadata": {"name": "volume"}, "spec": claim.spec()}],
            },
        })
    }
}
