//! The `weft` command under test: the suites start this one, so that no test ever runs a stale
//! program.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cli::main(std::env::args_os())
}
