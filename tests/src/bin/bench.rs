//! `cargo run --profile dist -p weft-tests --bin bench -- --help`: what a sidecar costs, beside others and
//! beside none.
//!
//! The sidecars, and whoever taps them, are this program again, as the `weft` command.

use std::process::ExitCode;

use clap::Parser as _;
use weft_sandbox::Sandbox;
use weft_tests::bench::{self, options::Options};

fn main() -> anyhow::Result<ExitCode> {
    let is_weft = std::env::args().nth(1);
    if is_weft.is_some_and(|word| matches!(&*word, "internal" | "tap")) {
        return Ok(weft_cli::main(std::env::args_os()));
    }
    // Before there is any thread; and what only wants to become another program does so here.
    let sandbox = Sandbox::enter()?;
    let options = Options::parse().resolved()?;
    let holds = bench::run(&options, &sandbox)?;
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
