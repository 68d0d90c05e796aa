//! Weft's sidecar, as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_proxy::app::main(std::env::args_os())
}
