//! The command line `lockstep`: what people and scripts type.
//!
//! Results go to standard output, everything else to standard error. With `--output json` a command prints exactly one JSON
//! value (`volume watch`: one a line), and a failure is `{"error": {...}}` on standard error. Exit codes: 0 done, 2 wrong input,
//! 3 the state forbids it, 4 somebody needed cannot be reached, 1 everything else.

mod args;
mod connect;
mod output;
mod playground;
mod progress;
mod tables;
mod volume;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind as ClapKind;

use crate::failure::{Failure, Kind};
use args::{Arguments, Format, Topic};

/// Runs one command line.
#[must_use]
pub fn run() -> ExitCode {
    let given: Vec<OsString> = std::env::args_os().collect();
    let arguments = match Arguments::try_parse_from(&given) {
        Ok(arguments) => arguments,
        Err(error) => return explain_usage(&error, &given),
    };
    let format = arguments.output;
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::print_failure(format, &failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    // Playground commands wait for processes; everything else for answers.
    match arguments.topic {
        Topic::Playground(command) => playground::run(&arguments.place, arguments.output, command),
        Topic::Volume(command) => connect::block_on(volume::run(&arguments.place, arguments.output, command)),
        Topic::Node => connect::block_on(volume::node(&arguments.place, arguments.output)),
        Topic::Pool => connect::block_on(volume::pool(&arguments.place, arguments.output)),
    }
}

/// Help and version are answers; anything else is wrong input, in JSON too if the line asks for JSON anywhere.
fn explain_usage(error: &clap::Error, given: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if wants_json(given) {
        let text = error.render().to_string();
        let message = text.trim().strip_prefix("error: ").unwrap_or(text.trim()).to_owned();
        let failure = Failure { kind: Kind::WrongInput, ..Failure::other(message) };
        output::print_failure(Format::Json, &failure);
    } else {
        let _ = error.print();
    }
    ExitCode::from(Kind::WrongInput.exit_code())
}

fn wants_json(given: &[OsString]) -> bool {
    given.iter().any(|word| word == "--output=json")
        || given.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
        || given.windows(2).any(|pair| pair[0] == "-o" && pair[1] == "json")
}
