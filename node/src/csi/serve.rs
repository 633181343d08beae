//! The node port as a plugin of kubelet: its socket, and the one by which kubelet finds it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_csi::registration::{self, Registered};
use lockstep_csi::{DRIVER, Directory, ListenError, Plugin, ServeError, Socket};
use tokio::sync::watch;

use super::CsiNode;
use super::attach_port::Attach;

/// Where kubelet keeps what plugins share with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletDir(PathBuf);

impl KubeletDir {
    /// The directory at `path`, `/var/lib/kubelet` as a rule; the same path in this process and for kubelet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The socket of the CSI services.
    #[must_use]
    pub fn csi_socket(&self) -> PathBuf {
        self.0.join("plugins").join(DRIVER).join("csi.sock")
    }

    /// The socket by which kubelet finds the plugin.
    #[must_use]
    pub fn registration_socket(&self) -> PathBuf {
        self.0.join("plugins_registry").join(format!("{DRIVER}-reg.sock"))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Why the plugin is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServePluginError {
    /// A socket could not be made.
    #[error("make the plugin's sockets")]
    Listen(#[from] ListenError),
    /// A server broke.
    #[error("serve kubelet")]
    Serve(#[from] ServeError),
}

/// Serves Identity and Node on kubelet's socket of the plugin, and then tells kubelet of it, until `shutdown` is there. `told` gets what kubelet
/// says about the registration.
///
/// # Errors
/// A socket could not be made, or a server broke.
pub async fn serve<A: Attach>(
    port: CsiNode<A>,
    kubelet: &KubeletDir,
    told: watch::Sender<Registered>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServePluginError> {
    let endpoint = kubelet.csi_socket();
    let plugin = Socket::listen(&endpoint, Directory::Ours)?;
    // Kubelet connects to the plugin's socket as soon as it sees this one.
    let registration = Socket::listen(&kubelet.registration_socket(), Directory::Theirs)?;
    let (stop, stopped) = watch::channel(false);
    let ended = |mut stopped: watch::Receiver<bool>| async move {
        // The sender lives as long as this function.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let plugin = Plugin::new().with_node(Arc::new(port)).serve(plugin, ended(stopped.clone()));
    let registered = registration::serve_registration(registration, &endpoint, told, ended(stopped));
    let both = async {
        tokio::try_join!(plugin, registered)?;
        Ok::<(), ServePluginError>(())
    };
    let stopping = async {
        shutdown.await;
        stop.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = both => ended,
        () = stopping => Ok(()),
    }
}
