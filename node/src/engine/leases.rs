//! Between the mirror engine, which knows no API server, and the service that asks it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lockstep_core::{Effect, Input, NodeId, Policing, Settings, VolumeId};
use lockstep_engine::{Engine, LeasePort, LeaseRequests};
use lockstep_leases::{Kind, Leases, Service, Verb};

use crate::cluster::{Cluster, Node};

/// The engine's way to Leases, and the way of the answers back to it.
#[derive(Debug)]
pub(super) struct LeaseWay {
    service: Service,
    back: Arc<Mutex<Back>>,
}

/// Where answers go.
#[derive(Debug)]
enum Back {
    /// Its volumes ask while the engine is being started: they are told when it has.
    Early(Vec<(VolumeId, Input)>),
    /// It runs, or has ended.
    Engine(Weak<Engine>),
}

impl LeaseWay {
    /// Starts the service, if this node's cluster file names a kubeconfig.
    pub(super) fn start(cluster: &Cluster, me: &Node) -> io::Result<Option<Arc<LeaseWay>>> {
        let Some(place) = cluster.leases() else { return Ok(None) };
        let back = Arc::new(Mutex::new(Back::Early(Vec::new())));
        let told = Arc::clone(&back);
        let tell = move |volume, input| {
            let engine = match &mut *told.lock().unwrap_or_else(PoisonError::into_inner) {
                Back::Early(early) => return early.push((volume, input)),
                Back::Engine(engine) => engine.upgrade(),
            };
            if let Some(engine) = engine {
                engine.lease_told(volume, input);
            }
        };
        let service = Service::start(Leases::new(place, me.name.clone()), NodeId(me.id), Arc::new(tell))?;
        Ok(Some(Arc::new(LeaseWay { service, back })))
    }

    /// The engine runs.
    pub(super) fn tell(&self, engine: &Arc<Engine>) {
        let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        if let Back::Early(early) = std::mem::replace(&mut *back, Back::Engine(Arc::downgrade(engine))) {
            for (volume, input) in early {
                engine.lease_told(volume, input);
            }
        }
    }

    /// Why the last request for a volume failed, if it did.
    pub(super) fn trouble(&self, volume: VolumeId) -> Option<String> {
        self.service.leases().trouble(volume)
    }
}

impl LeasePort for LeaseWay {
    fn started(&self, volume: VolumeId, settings: &Settings) {
        if let Policing::Lease { .. } = settings.policing {
            self.service.police(volume);
        }
    }

    fn ask(&self, volume: VolumeId, effect: Effect) {
        self.service.ask(volume, effect);
    }

    fn ended(&self, volume: VolumeId) {
        self.service.ended(volume);
    }

    fn requests(&self) -> Vec<LeaseRequests> {
        let requests = self.service.leases().requests();
        let each = |verb: Verb, kind: Kind| LeaseRequests {
            verb: verb.name(),
            kind: kind.name(),
            sent: requests.sent(verb, kind),
            failed: requests.failed(verb, kind),
        };
        Verb::ALL.into_iter().flat_map(|verb| Kind::ALL.map(|kind| each(verb, kind))).collect()
    }
}
