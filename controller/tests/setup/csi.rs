//! What the provisioner and the resizer do.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lockstep_proto::csi::v1 as proto;
use proto::controller_client::ControllerClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// As the sidecars have it.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Csi {
    pub client: ControllerClient<Channel>,
}

impl Csi {
    pub fn new(socket: PathBuf) -> Self {
        let connect = move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        };
        let channel =
            Endpoint::from_static("http://unix.invalid").connect_with_connector_lazy(tower::service_fn(connect));
        Self { client: ControllerClient::new(channel) }
    }

    pub async fn create(&self, request: proto::CreateVolumeRequest) -> Result<proto::Volume, Status> {
        let mut client = self.client.clone();
        let call = client.create_volume(bounded(request));
        Ok(call.await?.into_inner().volume.unwrap_or_default())
    }

    /// As the provisioner does: again, while the answer is that it may be under way.
    pub async fn create_in_the_end(&self, request: proto::CreateVolumeRequest) -> Result<proto::Volume, Status> {
        again(|| self.create(request.clone())).await
    }

    pub async fn delete(&self, volume: &str) -> Result<(), Status> {
        let mut client = self.client.clone();
        let request = proto::DeleteVolumeRequest { volume_id: volume.to_owned(), ..Default::default() };
        client.delete_volume(bounded(request)).await.map(drop)
    }

    pub async fn delete_in_the_end(&self, volume: &str) -> Result<(), Status> {
        again(|| self.delete(volume)).await
    }

    pub async fn expand(&self, volume: &str, bytes: i64) -> Result<i64, Status> {
        let mut client = self.client.clone();
        let range = proto::CapacityRange { required_bytes: bytes, limit_bytes: 0 };
        let request = proto::ControllerExpandVolumeRequest {
            volume_id: volume.to_owned(),
            capacity_range: Some(range),
            ..Default::default()
        };
        Ok(client.controller_expand_volume(bounded(request)).await?.into_inner().capacity_bytes)
    }

    pub async fn modify(&self, volume: &str, attributes: &[(&str, &str)]) -> Result<(), Status> {
        let mut client = self.client.clone();
        let mutable_parameters = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let request = proto::ControllerModifyVolumeRequest {
            volume_id: volume.to_owned(),
            mutable_parameters: mutable_parameters.collect(),
            ..Default::default()
        };
        client.controller_modify_volume(bounded(request)).await.map(drop)
    }

    /// The largest volume with its first consumer on this node.
    pub async fn largest(&self, node: &str) -> Result<i64, Status> {
        let mut client = self.client.clone();
        let segments = [
            ("topology.csi.lockstep.storage/driver".to_owned(), "true".to_owned()),
            ("topology.csi.lockstep.storage/node".to_owned(), node.to_owned()),
        ];
        let request = proto::GetCapacityRequest {
            accessible_topology: Some(proto::Topology { segments: segments.into() }),
            ..Default::default()
        };
        let answer = client.get_capacity(bounded(request)).await?.into_inner();
        Ok(answer.maximum_volume_size.unwrap_or(answer.available_capacity))
    }

    pub async fn list(&self) -> Result<Vec<String>, Status> {
        let mut client = self.client.clone();
        let answer = client.list_volumes(bounded(proto::ListVolumesRequest::default())).await?.into_inner();
        Ok(answer.entries.into_iter().filter_map(|entry| Some(entry.volume?.volume_id)).collect())
    }
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

/// While the answer says that it may be under way, and while nobody listens.
async fn again<T, F: Future<Output = Result<T, Status>>>(mut call: impl FnMut() -> F) -> Result<T, Status> {
    let deadline = tokio::time::Instant::now() + super::BOUND;
    let mut turns = tokio::time::interval(Duration::from_millis(200));
    loop {
        turns.tick().await;
        let status = match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let under_way = [Code::Aborted, Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];
        if !under_way.contains(&status.code()) || tokio::time::Instant::now() > deadline {
            return Err(status);
        }
    }
}

pub fn filesystem() -> proto::VolumeCapability {
    use proto::volume_capability as capability;
    let mount = capability::MountVolume { fs_type: "ext4".to_owned(), ..Default::default() };
    proto::VolumeCapability {
        access_mode: Some(capability::AccessMode { mode: capability::access_mode::Mode::SingleNodeMultiWriter.into() }),
        access_type: Some(capability::AccessType::Mount(mount)),
    }
}

pub fn block_many() -> proto::VolumeCapability {
    use proto::volume_capability as capability;
    proto::VolumeCapability {
        access_mode: Some(capability::AccessMode { mode: capability::access_mode::Mode::MultiNodeMultiWriter.into() }),
        access_type: Some(capability::AccessType::Block(capability::BlockVolume {})),
    }
}

/// A volume of so many bytes with the first consumer on `node`.
pub fn request(name: &str, bytes: i64, node: Option<&str>, parameters: &[(&str, &str)]) -> proto::CreateVolumeRequest {
    let topology = |node: &str| proto::Topology {
        segments: [
            ("topology.csi.lockstep.storage/driver".to_owned(), "true".to_owned()),
            ("topology.csi.lockstep.storage/node".to_owned(), node.to_owned()),
        ]
        .into(),
    };
    let parameters: BTreeMap<String, String> =
        parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    proto::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(proto::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
        volume_capabilities: vec![filesystem()],
        parameters: parameters.into_iter().collect(),
        accessibility_requirements: node.map(|node| proto::TopologyRequirement {
            requisite: vec![topology(node)],
            preferred: vec![topology(node)],
        }),
        ..Default::default()
    }
}
