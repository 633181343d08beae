//! The way to the holder: what is attached is given into its keeping, and given anew to one that has just started.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::failure::chain;
use crate::holder::{AskHolder, HolderClient, Kept};

/// How soon a holder that has started is found.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The longest wait for the end of the connection; then it is looked whether the engine still is.
const WATCH_FOR: Duration = Duration::from_secs(5);

/// What is to be held of one volume.
#[derive(Debug)]
struct Held {
    connection: u64,
    description: Vec<u8>,
    device: [OwnedFd; 1],
}

#[derive(Debug, Default)]
struct State {
    client: Option<HolderClient>,
    held: BTreeMap<String, Held>,
    /// Why there is no connection.
    trouble: String,
}

/// The way to the holder.
#[derive(Debug)]
pub(super) struct HolderLink {
    socket: PathBuf,
    state: Mutex<State>,
}

impl HolderLink {
    /// Connects, and takes what a predecessor left. Without a holder nothing was left; one that starts later is found.
    pub(super) fn start(socket: PathBuf) -> (Arc<HolderLink>, Vec<Kept>) {
        let link = Arc::new(HolderLink { socket, state: Mutex::default() });
        let left = match link.connect(&mut link.state()).and_then(|client| client.fetch()) {
            Ok(left) => left,
            Err(error) => {
                tracing::info!(error = chain(&error), "no holder: restarts of this engine are visible");
                Vec::new()
            }
        };
        let watched = Arc::downgrade(&link);
        std::thread::spawn(move || {
            while let Some(link) = watched.upgrade() {
                link.watch();
            }
        });
        (link, left)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect<'a>(&self, state: &'a mut State) -> Result<&'a HolderClient, AskHolder> {
        match HolderClient::connect(&self.socket) {
            Ok(client) => {
                state.trouble.clear();
                Ok(state.client.insert(client))
            }
            Err(error) => {
                state.trouble = chain(&error);
                Err(error)
            }
        }
    }

    /// Waits for the holder's end, or for a holder, and gives it everything then.
    fn watch(&self) {
        let client = self.state().client.as_ref().and_then(|client| client.try_clone().ok());
        if let Some(client) = client {
            if client.wait_for_end(WATCH_FOR) {
                tracing::warn!("the holder has ended: restarts of this engine are visible");
                let mut state = self.state();
                "the holder has ended".clone_into(&mut state.trouble);
                state.client = None;
            }
            return;
        }
        let mut state = self.state();
        if self.connect(&mut state).is_err() {
            drop(state);
            return std::thread::sleep(LOOK_EVERY);
        }
        let names: Vec<String> = state.held.keys().cloned().collect();
        tracing::info!(volumes = names.len(), "holder found");
        for name in names {
            if let Err(error) = give(&mut state, &name) {
                tracing::warn!(volume = name, error = chain(&error), "not held");
                return;
            }
        }
    }

    /// Whether what is attached now would outlive this engine.
    pub(super) fn is_connected(&self) -> bool {
        self.state().client.is_some()
    }

    /// Why the volume's device would not outlive this engine, if so.
    pub(super) fn trouble(&self, volume: &str) -> Option<String> {
        let state = self.state();
        match (state.client.is_some(), state.held.contains_key(volume)) {
            (true, true) => None,
            (true, false) => {
                let why = "attached while no holder ran, or the kernel is older than Linux 6.9";
                Some(format!("its device is not in the holder's keeping: {why}"))
            }
            (false, _) => Some(state.trouble.clone()),
        }
    }

    /// Gives a volume's device into the holder's keeping; to the next holder, if there is none now.
    pub(super) fn hold(&self, volume: &str, connection: u64, description: Vec<u8>, device: OwnedFd) {
        let mut state = self.state();
        state.held.insert(volume.to_owned(), Held { connection, description, device: [device] });
        if let Err(error) = give(&mut state, volume) {
            tracing::warn!(volume, error = chain(&error), "not held: a restart of this engine is visible");
        }
    }

    /// A volume's device is given up: the holder closes what it has of it.
    pub(super) fn forget(&self, volume: &str) {
        let mut state = self.state();
        state.held.remove(volume);
        let Some(client) = &state.client else { return };
        if let Err(error) = client.forget(volume) {
            tracing::warn!(volume, error = chain(&error), "not forgotten");
            state.client = None;
        }
    }
}

fn give(state: &mut State, volume: &str) -> Result<(), AskHolder> {
    let State { client: Some(client), held, .. } = &*state else { return Ok(()) };
    let Some(held) = held.get(volume) else { return Ok(()) };
    let given = client.put(volume, held.connection, &held.description, &held.device);
    if let Err(error) = &given {
        state.trouble = chain(error);
        state.client = None;
    }
    given
}
