//! The Leases of one engine: a thread of its own that asks the API server, so that no event loop ever waits for it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use lockstep_core::{Effect, Input, VolumeId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::register::Leases;

/// Where answers go. Called on the service's thread: it must not wait.
pub type Told = Arc<dyn Fn(VolumeId, Input) + Send + Sync>;

/// Serves an engine until it is dropped. What has no answer by then never gets one.
pub struct Service {
    leases: Arc<Leases>,
    asks: Option<UnboundedSender<(VolumeId, Effect)>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Service").field("leases", &self.leases).finish_non_exhaustive()
    }
}

impl Service {
    /// Starts the thread. Nothing is asked before the first volume asks.
    ///
    /// # Errors
    /// The thread, or what it waits with, cannot be made.
    pub fn start(leases: Leases, told: Told) -> io::Result<Service> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let leases = Arc::new(leases);
        let (asks, asked) = unbounded_channel();
        let served = Arc::clone(&leases);
        let thread = std::thread::Builder::new().name("leases".to_owned()).spawn(move || {
            runtime.block_on(serve(served, asked, told));
            // A request that hangs must not keep the engine's end.
            runtime.shutdown_background();
        })?;
        Ok(Service { leases, asks: Some(asks), thread: Some(thread) })
    }

    /// The Leases themselves, for whoever needs no engine.
    #[must_use]
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Does what a volume wants of its register, and tells it what came of it. Does not wait. The core has one question per
    /// volume open at a time, and gives it up when [`crate::REQUEST_LIMIT`] is over: that is what bounds the queue.
    pub fn ask(&self, volume: VolumeId, effect: Effect) {
        if let Some(asks) = &self.asks {
            // Fails only when the thread is gone, which nobody outlives.
            let _ = asks.send((volume, effect));
        }
    }

    /// A volume does not run here any more.
    pub fn ended(&self, volume: VolumeId) {
        self.leases.forget(volume);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("leases_panicked");
        }
    }
}

async fn serve(leases: Arc<Leases>, mut asked: UnboundedReceiver<(VolumeId, Effect)>, told: Told) {
    while let Some((volume, effect)) = asked.recv().await {
        let (leases, told) = (Arc::clone(&leases), Arc::clone(&told));
        tokio::spawn(async move {
            if let Some(input) = answer(&leases, volume, effect).await {
                told(volume, input);
            }
        });
    }
}

async fn answer(leases: &Leases, volume: VolumeId, effect: Effect) -> Option<Input> {
    match effect {
        Effect::RegisterRead { ask } => Some(Input::Register { ask, answer: leases.read_register(volume).await }),
        Effect::RegisterSwap { ask, version, config } => {
            Some(Input::Register { ask, answer: leases.swap_register(version, &config).await })
        }
        // Nothing else is asked of Leases.
        _ => None,
    }
}
