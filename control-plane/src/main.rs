//! The control plane's process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_control_plane::app::main(std::env::args_os())
}
