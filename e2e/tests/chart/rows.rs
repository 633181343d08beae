//! Tables of requests: who asks for what, and whether it is granted. Nothing is changed by them: all are dry runs, which the server checks
//! and guards like others.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use lockstep_processes::wait;
use serde_json::{Value, json};

use crate::cluster::{TestCluster, api};
use crate::helm::{NAMESPACE, NODE_NAMESPACE};

/// What the API server calls the fact that a token of a pod names its node.
const NODE_FACT: &str = "authentication.kubernetes.io/node-name";

/// Policies are in force some time after they were made.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(60);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A person who may do everything.
    Person,
    /// The agent of this node.
    Agent(&'static str),
    /// The engine of this node.
    Engine(&'static str),
    /// The agents' account, by a token that names no node.
    AgentOfNoNode,
    /// The controller.
    Controller,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Ask {
    Get(&'static str),
    Create(Value),
    /// The object as it is, with these fields changed.
    Update(&'static str, Value),
    /// The same, of its status.
    UpdateStatus(&'static str, Value),
    /// These fields only.
    Patch(&'static str, Value),
    Delete(&'static str),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Row {
    pub who: Who,
    pub kind: Kind,
    pub ask: Ask,
    /// What the refusal says; none: it is granted.
    pub refused: Option<&'static str>,
}

/// It is granted.
pub fn granted(who: Who, kind: Kind, ask: Ask) -> Row {
    Row { who, kind, ask, refused: None }
}

/// It is refused, and the message says this.
pub fn refused(who: Who, kind: Kind, ask: Ask, says: &'static str) -> Row {
    Row { who, kind, ask, refused: Some(says) }
}

/// Kinds of objects, with the namespace in which they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pool,
    Volume,
    Replica,
    Lease,
    NodeLease,
    Node,
    Pod,
    Secret,
}

impl Kind {
    /// How it is asked for.
    pub fn resource(self) -> ApiResource {
        let ours = |kind, plural| resource("lockstep.storage", "v1alpha1", kind, plural);
        match self {
            Self::Pool => ours("MirrorPool", "mirrorpools"),
            Self::Volume => ours("MirrorVolume", "mirrorvolumes"),
            Self::Replica => ours("MirrorReplica", "mirrorreplicas"),
            Self::Lease | Self::NodeLease => resource("coordination.k8s.io", "v1", "Lease", "leases"),
            Self::Node => resource("", "v1", "Node", "nodes"),
            Self::Pod => resource("", "v1", "Pod", "pods"),
            Self::Secret => resource("", "v1", "Secret", "secrets"),
        }
    }

    /// Where it is.
    pub fn namespace(self) -> Option<&'static str> {
        match self {
            Self::Pool | Self::Volume | Self::Replica | Self::Node => None,
            Self::Lease | Self::Pod | Self::Secret => Some(NAMESPACE),
            Self::NodeLease => Some(NODE_NAMESPACE),
        }
    }
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Puts fields of objects into those of others; everything else in place of what was there, and null takes away.
fn merge(into: &mut Value, from: &Value) {
    let Some(fields) = from.as_object() else {
        *into = from.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(into.as_object_mut().and_then(|into| into.remove(name))),
            value => merge(&mut into[name], value),
        }
    }
}

impl TestCluster {
    /// Asks for all of them. What is refused comes first: then the policies are in force, and what is granted is granted by them.
    pub fn check(&self, rows: &[Row]) -> Result<()> {
        let mut clients = BTreeMap::new();
        let mut wrong = Vec::new();
        let (refusals, grants): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.refused.is_some());
        for row in refusals.into_iter().chain(grants) {
            let client = match clients.get(&row.who) {
                Some(client) => Client::clone(client),
                None => clients.entry(row.who).or_insert(self.client_of(row.who)?).clone(),
            };
            // One that is not as it should be after this time will not be for others either.
            let within = if wrong.is_empty() { IN_FORCE_WITHIN } else { Duration::from_secs(2) };
            let mut last = String::new();
            let right = wait::until_true("it is as it should be", within, || {
                let verdict = self.judge(row, &client)?;
                last = verdict.as_ref().err().cloned().unwrap_or_default();
                Ok(verdict.is_ok())
            });
            if let Err(error) = right {
                wrong.push(format!("{:?} {:?} {:?}: {error:#}: {last}", row.who, row.kind, row.ask));
            }
        }
        if !wrong.is_empty() {
            bail!("{wrong:#?}");
        }
        Ok(())
    }

    fn client_of(&self, who: Who) -> Result<Client> {
        let user = |component| format!("system:serviceaccount:{NAMESPACE}:lockstep-{component}");
        self.run(async {
            match who {
                Who::Person => self.server.client().await,
                Who::Agent(node) => self.server.client_as(&user("node"), &[(NODE_FACT, node)]).await,
                Who::Engine(node) => self.server.client_as(&user("engine"), &[(NODE_FACT, node)]).await,
                Who::AgentOfNoNode => self.server.client_as(&user("node"), &[]).await,
                Who::Controller => self.server.client_as(&user("controller"), &[]).await,
            }
        })
    }

    /// Whether the answer is the one that is wanted; if not, what it was.
    pub fn judge(&self, row: &Row, client: &Client) -> Result<Result<(), String>> {
        let answer = self.ask(row, client)?;
        Ok(match (row.refused, answer) {
            (None, Ok(())) => Ok(()),
            (Some(says), Err(kube::Error::Api(status))) if status.message.contains(says) => Ok(()),
            (_, Ok(())) => Err("granted".to_owned()),
            (_, Err(kube::Error::Api(status))) => Err(format!("{}: {}", status.code, status.message)),
            (_, Err(error)) => return Err(error).context("ask the server"),
        })
    }

    fn ask(&self, row: &Row, client: &Client) -> Result<kube::Result<()>> {
        let resource = row.kind.resource();
        let objects = api(client, &resource, row.kind.namespace());
        let changed = |name: &str, change: &Value| -> Result<DynamicObject> {
            let found = self.run(api(&self.client, &resource, row.kind.namespace()).get(name));
            let mut object = serde_json::to_value(found.with_context(|| format!("find {name}"))?)?;
            merge(&mut object, change);
            Ok(serde_json::from_value(object)?)
        };
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        Ok(match &row.ask {
            Ask::Get(name) => self.run(objects.get(name)).map(drop),
            Ask::Create(object) => {
                let object: DynamicObject = serde_json::from_value(object.clone())?;
                self.run(objects.create(&dry, &object)).map(drop)
            }
            Ask::Update(name, change) => self.run(objects.replace(name, &dry, &changed(name, change)?)).map(drop),
            Ask::UpdateStatus(name, change) => {
                self.run(objects.replace_status(name, &dry, &changed(name, change)?)).map(drop)
            }
            Ask::Patch(name, change) => {
                let dry = PatchParams { dry_run: true, ..PatchParams::default() };
                self.run(objects.patch(name, &dry, &Patch::Merge(change))).map(drop)
            }
            Ask::Delete(name) => {
                let dry = DeleteParams { dry_run: true, ..DeleteParams::default() };
                self.run(objects.delete(name, &dry)).map(drop)
            }
        })
    }
}
