//! The conformance suite of policing, with the Leases at a real API server. With peers, and with simulated Leases, it is
//! `mirror/sim/tests/conformance.rs`.

use anyhow::{Result, ensure};
use lockstep_apiserver::ApiServer;
use lockstep_core::{Config, LeaseTold, LeaseWant, RegisterAnswer, VolumeId};
use lockstep_e2e::cleanup::Cleanup;
use lockstep_leases::{Kind, Leases, Place, Verb, names};
use lockstep_sim::conformance::{CASES, Police, judge};
use lockstep_sim::trace::Trace;
use lockstep_sim::world::Remote;
use std::rc::Rc;
use tokio::runtime::Runtime;

/// A volume's Leases at the API server.
struct Volume {
    runtime: Rc<Runtime>,
    leases: Rc<Leases>,
    id: VolumeId,
}

impl Remote for Volume {
    fn read_register(&mut self) -> RegisterAnswer {
        self.runtime.block_on(self.leases.read_register(self.id))
    }

    fn swap_register(&mut self, version: u64, config: &Config) -> RegisterAnswer {
        self.runtime.block_on(self.leases.swap_register(version, config))
    }

    fn lease(&mut self, want: &LeaseWant) -> LeaseTold {
        self.runtime.block_on(self.leases.lease(self.id, want))
    }
}

#[test]
fn leases_at_a_real_api_server_keep_the_promises() -> Result<()> {
    let home = tempfile::Builder::new().prefix("lockstep-policing-").tempdir()?;
    let cleanup = Cleanup::new();
    let server = ApiServer::start(home.path(), &cleanup)?;
    server.make_namespace(names::NAMESPACE)?;
    let place = Place { kubeconfig: server.kubeconfig().to_owned(), namespace: names::NAMESPACE.to_owned() };
    let runtime = Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
    let leases = Rc::new(Leases::new(place, "conformance".to_owned()));
    let mut failed = Vec::new();
    for case in CASES {
        let mut made = Ok(());
        let mut make = |config: &Config| -> Box<dyn Remote> {
            made = runtime.block_on(leases.create_register(config));
            Box::new(Volume { runtime: runtime.clone(), leases: leases.clone(), id: config.volume })
        };
        let outcome = judge(&case, Police::Lease, 1, Some(&mut make), Trace::quiet());
        made?;
        if let Some(failure) = outcome.failure {
            failed.push(format!("{}: {failure}", case.name));
        }
        runtime.block_on(leases.delete_all(VolumeId([7; 16])))?;
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    let written = leases.requests().sent(Verb::Update, Kind::Grants);
    ensure!(written > 200, "{written} writes of grant Leases: the suite did not go through the API server");
    Ok(())
}
