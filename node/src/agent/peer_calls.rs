//! Sealed calls to the other agents, and the answers to theirs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use lockstep_proto::node::v1 as proto;
use lockstep_proto::node::v1::peer_client::PeerClient;
use lockstep_proto::node::v1::peer_reply::Reply;
use lockstep_proto::node::v1::peer_request::Request;
use lockstep_proto::node::v1::peer_server::Peer;
use proto::{ChallengeReply, ChallengeRequest, PeerReply, PeerRequest, SealedReply, SealedRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use super::seal::Number;
use super::{Agent, CHANGE_WITHIN};
use crate::cluster::Node;
use crate::failure::Failure;
use crate::rpc;
use crate::spec::Spec;

/// How long a connection to another agent may take: as long as a few lost packets on a slow network.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Largest sealed message that is read. A list of all volumes of a large cluster is far below.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Connections to the other agents, each with the address that it is to, made when first used.
#[derive(Default)]
pub(super) struct Peers(Mutex<BTreeMap<u32, (SocketAddr, PeerClient<Channel>)>>);

impl Peers {
    /// The connection to a node, where it is now.
    fn client(&self, node: &Node) -> PeerClient<Channel> {
        let address = node.agent_address();
        let mut clients = self.0.lock().expect("no holder panics");
        match clients.get(&node.id) {
            Some((known, client)) if *known == address => client.clone(),
            _ => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"));
                let endpoint = endpoint.expect("an address and port is a URI").connect_timeout(CONNECT_WITHIN);
                let client = PeerClient::new(endpoint.connect_lazy()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                clients.insert(node.id, (address, client.clone()));
                client
            }
        }
    }
}

impl Agent {
    /// Asks the agent of node `id`, which may be this one.
    pub(super) async fn ask(&self, id: u32, request: Request) -> Result<Reply, Failure> {
        if id == self.me.id {
            return self.on_request(request).await;
        }
        let whom = format!("node {}", self.cluster().name_of(id));
        let longest = match request {
            Request::Create(_)
            | Request::Delete(_)
            | Request::TakeGrants(_)
            | Request::AddMember(_)
            | Request::RemoveMember(_) => CHANGE_WITHIN + rpc::ANSWER_WITHIN,
            _ => rpc::ANSWER_WITHIN,
        };
        let cluster = self.cluster();
        let node = cluster.node_by_id(id).ok_or_else(|| Failure::other(format!("{whom} is not in the cluster")))?;
        let mut client = self.peers.client(node);
        let challenge = rpc::answer(&whom, rpc::ANSWER_WITHIN, client.challenge(ChallengeRequest {})).await?.challenge;
        let nonce = Number::random().map_err(|error| Failure::of_host("read random bytes", &error))?;
        let request = PeerRequest { request: Some(request) };
        let sealed = self.key.seal_request(self.me.id, challenge.clone(), &nonce, &request);
        let reply = rpc::answer(&whom, longest, client.call(sealed)).await?;
        let reply = self
            .key
            .open_reply(id, &challenge, &nonce, &reply)
            .map_err(|error| Failure::other(format!("{whom}: the answer is not accepted: {error}")))?;
        match reply.reply {
            Some(Reply::Error(detail)) => Err(Failure::of_detail(detail)),
            Some(reply) => Ok(reply),
            None => Err(Failure::other(format!("{whom} gives an answer of another version"))),
        }
    }

    /// Asks all nodes at once. In the order of their ids.
    pub(super) async fn ask_all(&self, ids: &[u32], request: &Request) -> Vec<(u32, Result<Reply, Failure>)> {
        let calls = ids.iter().map(|id| async { (*id, self.ask(*id, request.clone()).await) });
        join_all(calls).await
    }

    async fn on_request(&self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::Describe(_) => Ok(Reply::Describe(self.describe().await)),
            Request::Create(request) => {
                let spec = request.spec.ok_or_else(|| Failure::wrong_input("spec", "", "is missing"))?;
                self.create_here(&Spec::parse(&spec)?).await.map(|()| Reply::Create(proto::CreateReplicaReply {}))
            }
            Request::Delete(request) => {
                let existed = self.delete_here(&request.volume, crate::spec::parse_id(&request.id)?).await?;
                Ok(Reply::Delete(proto::DeleteReplicaReply { existed }))
            }
            Request::List(_) => Ok(Reply::List(proto::ListVolumesReply { volumes: self.list_here().await? })),
            Request::Status(request) => Ok(Reply::Status(self.status_here(&request.volume).await?)),
            Request::Register(spec) => {
                self.register_here(&Spec::parse(&spec)?).map(|()| Reply::Register(proto::RegisterReply {}))
            }
            Request::Configuration(request) => {
                let configuration = self.configuration_here(&request.volume).await?;
                Ok(Reply::Configuration(proto::VolumeConfiguration { configuration }))
            }
            Request::AddMember(request) => Ok(Reply::Status(self.add_member_here(request).await?)),
            Request::RemoveMember(request) => Ok(Reply::Status(self.remove_member_here(request).await?)),
            Request::TakeGrants(request) => Ok(Reply::TakeGrants(self.take_grants_here(request).await?)),
            Request::Specs(_) => {
                let specs = self.registry.volumes().iter().map(Spec::to_proto).collect();
                Ok(Reply::Specs(proto::ListSpecsReply { specs }))
            }
        }
    }
}

/// The service that the other agents call.
pub(super) struct PeerService(pub(super) std::sync::Arc<Agent>);

#[tonic::async_trait]
impl Peer for PeerService {
    async fn challenge(&self, _: tonic::Request<ChallengeRequest>) -> Result<Response<ChallengeReply>, Status> {
        let challenge = self.0.challenges.give().map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ChallengeReply { challenge: challenge.to_vec() }))
    }

    async fn call(&self, request: tonic::Request<SealedRequest>) -> Result<Response<SealedReply>, Status> {
        let from = request.remote_addr();
        let sealed = request.into_inner();
        let opened = self.0.key.open_request(&self.0.challenges, &sealed).map_err(|error| {
            tracing::warn!(from = ?from, claimed_node = sealed.from_node_id, %error, "peer call refused");
            Status::unauthenticated(format!("the call is not accepted: {error}"))
        })?;
        let result = match opened.request {
            Some(request) => self.0.on_request(request).await,
            None => Err(Failure::other("the request is of another version")),
        };
        let reply = result.unwrap_or_else(|failure| Reply::Error(failure.to_detail()));
        Ok(Response::new(self.0.key.seal_reply(self.0.me.id, &sealed, &PeerReply { reply: Some(reply) })))
    }
}

/// Runs futures side by side on this task and gives their results in order.
pub(super) async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(|future| (Some(Box::pin(future)), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, result) in &mut waiting {
            if let Some(running) = future {
                match running.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => {
                        *result = Some(value);
                        *future = None;
                    }
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    waiting.into_iter().filter_map(|(_, result)| result).collect()
}
