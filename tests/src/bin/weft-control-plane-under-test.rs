//! The control plane's own program under test, for suites that measure it: nothing else is in it.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_control_plane::app::main(std::env::args_os())
}
