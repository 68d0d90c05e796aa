//! The sidecar's own program under test, for the suite of the container images: nothing else is in it.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_proxy::app::main(std::env::args_os())
}
