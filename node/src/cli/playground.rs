//! `lockstep playground`.

use serde_json::json;

use super::args::{self, Disturb, Format, Place};
use super::{output, tables};
use crate::failure::Failure;
use crate::playground::{NodeState, Playground, Verb};

/// Runs one command.
pub(super) fn run(place: &Place, format: Format, command: args::Playground) -> Result<(), Failure> {
    let dir = place.playground_dir();
    let (verb, disturb) = match command {
        args::Playground::Start { nodes, kubeconfig } => {
            let playground = Playground::start(&dir, nodes, kubeconfig.as_deref())?;
            return print(format, &playground.observe()?);
        }
        args::Playground::Status => return print(format, &Playground::open(&dir)?.observe()?),
        args::Playground::Destroy => {
            // Nothing there: that is what was asked for.
            if dir.exists() {
                Playground::open(&dir)?.destroy()?;
            }
            return output::print(format, &json!({ "destroyed": dir }), |_| format!("{} is gone", dir.display()));
        }
        args::Playground::Kill(disturb) => (Verb::Kill, disturb),
        args::Playground::Stop(disturb) => (Verb::Stop, disturb),
        args::Playground::Restart(disturb) => (Verb::Restart, disturb),
        args::Playground::Pause(disturb) => (Verb::Pause, disturb),
        args::Playground::Resume(disturb) => (Verb::Resume, disturb),
    };
    let Disturb { name, whole_node } = disturb;
    let playground = Playground::open(&dir)?;
    playground.node(&name)?.disturb(verb, whole_node)?;
    print(format, &playground.observe()?)
}

fn print(format: Format, nodes: &[NodeState]) -> Result<(), Failure> {
    output::print(format, &nodes, |nodes| tables::playground(nodes))
}
