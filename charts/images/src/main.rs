//! `cargo image`: builds Weft's programs and writes container images of them.

use std::process::ExitCode;

use clap::Parser as _;
use weft_images::command::Arguments;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
