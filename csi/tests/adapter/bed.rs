//! A plugin that runs: both services on one socket, ports in memory behind them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use hyper_util::rt::TokioIo;
use lockstep_csi::{DRIVER, Directory, Plugin, ServeError, Socket};
use lockstep_csi_conformance::Target;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cluster::Cluster;
use crate::controller_port::{MemoryController, PRIORITY};
use crate::node_port::MemoryNode;

pub struct Bed {
    pub cluster: Arc<Cluster>,
    pub socket: PathBuf,
    directory: TempDir,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Bed {
    /// Starts a plugin with both services.
    pub fn start() -> Result<Self> {
        Self::start_with(|cluster| {
            let controller = Arc::new(MemoryController(Arc::clone(cluster)));
            Plugin::new().with_controller(controller).with_node(Arc::new(MemoryNode(Arc::clone(cluster))))
        })
    }

    /// Starts a plugin with other services.
    pub fn start_with(plugin: impl FnOnce(&Arc<Cluster>) -> Plugin) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("plugin/csi.sock");
        let cluster = Arc::new(Cluster::default());
        let socket = Socket::listen(&path, Directory::Ours)?;
        let (stop, stopped) = oneshot::channel();
        let served = plugin(&cluster).serve(socket, async {
            // A bed that is dropped stops it too.
            let _ = stopped.await;
        });
        Ok(Self { cluster, socket: path, directory, stop, server: tokio::spawn(served) })
    }

    pub fn target(&self) -> Target {
        Target {
            controller: channel(&self.socket),
            node: channel(&self.socket),
            directory: self.directory.path().to_owned(),
            parameters: [("replicas".to_owned(), "2".to_owned())].into(),
            other_parameters: [("replicas".to_owned(), "3".to_owned())].into(),
            mutable_parameter: (PRIORITY.to_owned(), "high".to_owned()),
            no_room_bytes: 1 << 45,
            driver: DRIVER.to_owned(),
        }
    }

    /// Ends the plugin, and answers when it has ended.
    pub async fn stop(self) -> Result<()> {
        // It may have ended by itself: the result says why.
        let _ = self.stop.send(());
        Ok(self.server.await??)
    }
}

/// A channel to a unix socket, connected when it is first used.
pub fn channel(path: &Path) -> Channel {
    let path = path.to_owned();
    // The address is never looked up.
    Endpoint::from_static("http://unix.invalid").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    }))
}
