//! The `weft` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cli::main(std::env::args_os())
}
