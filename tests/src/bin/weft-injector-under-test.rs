//! The webhook's own program under test.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_injector::app::main(std::env::args_os())
}
