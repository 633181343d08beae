//! The command line of the simulator.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lockstep_sim::campaign::Campaign;
use lockstep_sim::run::{Outcome, catch_panics, run};
use lockstep_sim::scenario;
use lockstep_sim::trace::Trace;
use lockstep_sim::variants::{self, Hunt, VARIANTS, Variant};

#[derive(Parser)]
#[command(name = "lockstep-sim", about = "Runs the production state machine in a simulated world, by seeds", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds.
    Run {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Threads; all cores if not given.
        #[arg(long)]
        jobs: Option<usize>,
        /// Only this scenario.
        #[arg(long)]
        scenario: Option<String>,
        /// With this rule left out, by name or number.
        #[arg(long)]
        variant: Option<String>,
        /// Stop after so many failures.
        #[arg(long, default_value_t = 5)]
        failures: usize,
    },
    /// Run the deliberately broken variants until each is caught.
    Variants {
        /// Only this one, by name or number.
        #[arg(long)]
        variant: Option<String>,
        /// At most so many runs for each, instead of its own bound.
        #[arg(long)]
        max_seeds: Option<u64>,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Threads; all cores if not given.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Run one seed again.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// The scenario.
        #[arg(long)]
        scenario: String,
        /// With this rule left out, by name or number.
        #[arg(long)]
        variant: Option<String>,
        /// Print everything that happens.
        #[arg(long)]
        trace: bool,
    },
    /// List the scenarios.
    Scenarios,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    catch_panics();
    let result = match arguments.command {
        Command::Run { seeds, seed, jobs, scenario, variant, failures } => {
            wanted(variant.as_deref()).and_then(|variant| {
                let campaign = Campaign {
                    first: seed,
                    seeds,
                    scenario: known(scenario)?,
                    broken: variant.map(|variant| variant.broken),
                    jobs: jobs.unwrap_or_else(cores),
                    failures_max: failures.max(1),
                };
                Ok(run_campaign(&campaign, arguments.output))
            })
        }
        Command::Variants { variant, max_seeds, seed, jobs } => wanted(variant.as_deref())
            .map(|variant| run_variants(variant, max_seeds, seed, jobs.unwrap_or_else(cores), arguments.output)),
        Command::Replay { seed, scenario, variant, trace } => wanted(variant.as_deref()).and_then(|variant| {
            let scenario = scenario::find(&scenario).ok_or(format!("no scenario is named {scenario}"))?;
            let trace = if trace { Trace::printing() } else { Trace::quiet() };
            let outcome = run(&scenario, seed, variant.map(|variant| variant.broken), trace);
            Ok(print_replay(&outcome, variant, arguments.output))
        }),
        Command::Scenarios => Ok(print_scenarios(arguments.output)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::from(2)
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn wanted(name: Option<&str>) -> Result<Option<Variant>, String> {
    name.map(|name| variants::find(name).ok_or(format!("no variant is named or numbered {name}"))).transpose()
}

fn known(scenario: Option<String>) -> Result<Option<String>, String> {
    match scenario {
        Some(name) if scenario::find(&name).is_none() => Err(format!("no scenario is named {name}")),
        other => Ok(other),
    }
}

fn progress_bar(length: u64, output: Output) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if output == Output::Json || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn commit() -> String {
    let output = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn replay_command(outcome: &Outcome, variant: Option<&str>) -> String {
    let variant = variant.map_or_else(String::new, |name| format!(" --variant {name}"));
    format!(
        "cargo run --release -p lockstep-sim -- replay --seed {} --scenario {}{variant} --trace",
        outcome.seed, outcome.scenario
    )
}

fn print_failure(outcome: &Outcome, variant: Option<&str>) {
    if let Some(failure) = &outcome.failure {
        println!("FAILED seed {} scenario {} commit {}", outcome.seed, outcome.scenario, commit());
        println!("  {failure}");
        println!("  at {} ms; replay: {}", failure.at / 1_000_000, replay_command(outcome, variant));
    }
}

fn run_campaign(campaign: &Campaign, output: Output) -> bool {
    let began = Instant::now();
    let bar = progress_bar(campaign.seeds, output);
    let tally = campaign.run(|runs, failures| {
        bar.set_position(runs);
        bar.set_message(format!("{failures} failed"));
    });
    bar.finish_and_clear();
    let variant = campaign.broken.map(|broken| format!("{broken:?}"));
    if output == Output::Json {
        println!("{}", serde_json::to_string(&tally).unwrap_or_default());
        return tally.failures.is_empty();
    }
    for outcome in &tally.failures {
        print_failure(outcome, variant.as_deref());
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} runs, {} failed; {} requests, {} events, {:.0} s of virtual time in {:.1} s ({:.1} ms a run and core)",
        tally.runs,
        tally.failures.len(),
        tally.completed,
        tally.events,
        tally.virtual_nanos as f64 / 1e9,
        seconds,
        seconds * 1e3 * campaign.jobs as f64 / tally.runs.max(1) as f64,
    );
    tally.failures.is_empty()
}

fn run_variants(only: Option<Variant>, runs_max: Option<u64>, seed: u64, jobs: usize, output: Output) -> bool {
    let wanted: Vec<Variant> = only.map_or_else(|| VARIANTS.to_vec(), |variant| vec![variant]);
    let bar = progress_bar(wanted.len() as u64, output);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let hunts = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(variant) = wanted.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let hunt = variants::hunt(variant, seed, runs_max);
                    bar.inc(1);
                    if output == Output::Text {
                        bar.suspend(|| print_hunt(&hunt));
                    }
                    hunts.lock().expect("no thread panics while it holds this").push(hunt);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut hunts: Vec<Hunt> = hunts.into_inner().expect("no thread panics while it holds this");
    hunts.sort_by_key(|hunt| hunt.number);
    let missed: Vec<&Hunt> = hunts.iter().filter(|hunt| hunt.caught.is_none()).collect();
    if output == Output::Json {
        println!("{}", serde_json::to_string(&hunts).unwrap_or_default());
    } else {
        println!("{} of {} variants caught", hunts.len() - missed.len(), hunts.len());
        for hunt in &missed {
            println!("NOT CAUGHT: {} {} in {} runs", hunt.number, hunt.name, hunt.runs);
        }
    }
    missed.is_empty()
}

fn print_hunt(hunt: &Hunt) {
    match &hunt.caught {
        Some(outcome) => {
            let failure = outcome.failure.as_ref().map_or_else(String::new, |failure| {
                format!("{:?} {}: {}", failure.kind, failure.rule, failure.what.chars().take(150).collect::<String>())
            });
            println!(
                "{:>2} {:<32} caught after {:>4} runs by seed {} of {}: {failure}",
                hunt.number, hunt.name, hunt.runs, outcome.seed, outcome.scenario
            );
        }
        None => println!("{:>2} {:<32} NOT CAUGHT in {} runs", hunt.number, hunt.name, hunt.runs),
    }
}

fn print_replay(outcome: &Outcome, variant: Option<Variant>, output: Output) -> bool {
    if output == Output::Json {
        println!("{}", serde_json::to_string(outcome).unwrap_or_default());
    } else {
        print_failure(outcome, variant.map(|variant| format!("{:?}", variant.broken)).as_deref());
        println!(
            "{} requests completed, {} failed, {} events, hash {:016x}",
            outcome.completed, outcome.failed, outcome.events, outcome.hash
        );
    }
    outcome.failure.is_none()
}

fn print_scenarios(output: Output) -> bool {
    if output == Output::Json {
        let list: Vec<_> = scenario::all()
            .iter()
            .map(|s| serde_json::json!({"name": s.name, "about": s.about, "share": s.share}))
            .collect();
        println!("{}", serde_json::Value::Array(list));
    } else {
        for scenario in scenario::all() {
            println!("{:<24} {:>3} {}", scenario.name, scenario.share, scenario.about);
        }
    }
    true
}
