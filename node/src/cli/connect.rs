//! Finding the agent that a command speaks with.

use std::path::{Path, PathBuf};

use lockstep_proto::node::v1::node_client::NodeClient;
use tonic::transport::Channel;

use super::args::Place;
use crate::failure::Failure;
use crate::input;
use crate::playground::{Playground, default_dir};
use crate::rpc;

/// Runs a command that waits for answers.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::of_host("start a runtime", &error))?.block_on(work)
}

/// The agent of a command, and how errors call it.
pub(super) struct Agent {
    pub client: NodeClient<Channel>,
    pub name: String,
}

impl Place {
    /// The playground's directory.
    pub(super) fn playground_dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(default_dir)
    }

    /// Connects with the agent that `--node` names.
    pub(super) fn agent(&self) -> Result<Agent, Failure> {
        let (socket, name) = self.socket()?;
        Ok(Agent { client: NodeClient::new(rpc::unix_channel(socket)), name })
    }

    fn socket(&self) -> Result<(PathBuf, String), Failure> {
        let Some(node) = &self.node else {
            let playground = Playground::open(&self.playground_dir())?;
            return match playground.nodes() {
                [only] => Ok((only.state().node_socket(), format!("the agent of node {}", only.name()))),
                nodes => {
                    let names: Vec<&str> = nodes.iter().map(|node| node.name()).collect();
                    let message = format!("must be given: the nodes are {}", names.join(", "));
                    Err(Failure::wrong_input("node", "", message))
                }
            };
        };
        // A name has neither slash nor dot: whatever has one is a path.
        if node.contains(['/', '.']) {
            let path = Path::new(node);
            if !path.exists() {
                return Err(Failure::not_reachable(format!("the agent's socket {node} is not there")));
            }
            return Ok((path.to_owned(), format!("the agent at {node}")));
        }
        input::check_name("node", node)?;
        let playground = Playground::open(&self.playground_dir())?;
        let found = playground.node(node)?;
        Ok((found.state().node_socket(), format!("the agent of node {node}")))
    }
}
