//! A place in a port where a test can hold work up, and see that it is there.

use anyhow::Result;
use tokio::sync::watch;

/// Open, unless a test closed it.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: watch::Sender::new(true), arrived: watch::Sender::new(0) }
    }
}

impl Gate {
    /// What work does here: it says that it came, and waits until the gate is open.
    pub async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        // The sender lives as long as this gate.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// How much work came here.
    pub fn arrived(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Waits until so much work came here.
    pub async fn wait_for(&self, arrived: usize) -> Result<()> {
        self.arrived.subscribe().wait_for(|so_far| *so_far >= arrived).await?;
        Ok(())
    }
}
