//! One round: disturb a node, cut links, see who goes on, heal both, judge.

use super::plan::SharingPlan;
use super::writers::Writers;
use super::{SharingSummary, millis};
use crate::playground::Fault;
use crate::soak::cluster::timed;
use crate::soak::plan::Plan;
use anyhow::{Context, Result};
use std::collections::BTreeSet;

/// Runs one round, and says in a line what it showed.
pub(super) fn run_round(writers: &mut Writers, plan: &SharingPlan, summary: &mut SharingSummary) -> Result<String> {
    let nodes = writers.playground.nodes().to_vec();
    let all: Vec<Vec<String>> = nodes.iter().map(|node| vec![node.clone()]).collect();
    let name = |index: usize| nodes.get(index).cloned().context("the plan names nodes");
    writers.progress().wait(&all).context("before the disturbance")?;

    let groups = plan
        .go_on(nodes.len())
        .into_iter()
        .map(|group| group.into_iter().map(name).collect())
        .collect::<Result<Vec<Vec<String>>>>()?;
    let disturbed = writers.recorder.now();
    if let Some(process) = &plan.process {
        writers.playground.disturb(&name(process.victim)?, process.fault, process.whole_node)?;
    }
    for again in 1..=plan.cuts.max(1) {
        if let Some(cut) = &plan.cut {
            if again > 1 {
                cut.join(writers.playground.networks()?, &nodes)?;
            }
            cut.cut(writers.playground.networks()?, &nodes)?;
        }
        writers.progress().wait(&groups).context("meanwhile")?;
    }
    let gap = writers.recorder.longest_gap(disturbed, writers.recorder.now());
    summary.longest_gap = summary.longest_gap.max(gap);

    heal(writers, plan, &nodes)?;
    let ((), whole_after) = timed(|| writers.wait_whole())?;
    let ended = plan.process.as_ref().filter(|process| process.fault != Fault::Pause);
    let ended = ended.map(|process| name(process.victim)).transpose()?;
    let lost = writers.bring_back(&BTreeSet::from_iter(ended))?;
    writers.note_grants(summary);
    let judged = writers.judge()?;
    summary.add(plan, judged, lost);
    Ok(format!(
        "{}, gap {}, whole after {}, {lost} attached again, {judged} operations judged",
        shown(plan, &nodes),
        millis(gap),
        millis(whole_after)
    ))
}

fn shown(plan: &SharingPlan, nodes: &[String]) -> String {
    let process = plan.process.as_ref().map(|process| {
        let victim = nodes.get(process.victim).map_or("?", String::as_str);
        let whole_node = if process.whole_node { ", whole node" } else { "" };
        format!("{} {victim}{whole_node}", process.fault.verb())
    });
    let cut = plan.cut.as_ref().map(|cut| {
        let times = if plan.cuts > 1 { format!(" {} times", plan.cuts) } else { String::new() };
        format!("{}{times}", cut.shown(nodes))
    });
    [process, cut].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn heal(writers: &Writers, plan: &SharingPlan, nodes: &[String]) -> Result<()> {
    let join = || match &plan.cut {
        Some(cut) => cut.join(writers.playground.networks()?, nodes),
        None => Ok(()),
    };
    let wake = || plan.process.as_ref().map_or(Ok(()), |process| heal_process(writers, process, nodes));
    if plan.join_first { join().and_then(|()| wake()) } else { wake().and_then(|()| join()) }
}

fn heal_process(writers: &Writers, plan: &Plan, nodes: &[String]) -> Result<()> {
    let victim = nodes.get(plan.victim).context("the plan names a node")?;
    plan.heal(&writers.playground, victim)
}
