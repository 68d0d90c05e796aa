//! The webhook's process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_injector::app::main(std::env::args_os())
}
