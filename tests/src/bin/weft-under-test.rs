//! The programs of a mesh under test, called as the `weft` command calls them: the suites start this
//! one, so that no test ever runs a stale program.

use std::ffi::OsString;
use std::process::ExitCode;

/// Exit code of a command line that is not understood.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let words: Vec<_> = args
        .iter()
        .skip(1)
        .take(2)
        .map(|arg| arg.to_str())
        .collect();
    // What each main gets as its program's name is the word that chose it.
    let rest = args.iter().skip(2).cloned();
    match words[..] {
        [Some("internal"), Some("proxy")] => weft_proxy::app::main(rest),
        [Some("internal"), Some("control-plane")] => weft_control_plane::app::main(rest),
        [Some("internal"), Some("app")] => weft_sandbox::app::main(rest),
        _ => {
            eprintln!("usage: weft-under-test internal proxy|control-plane|app ...");
            ExitCode::from(USAGE)
        }
    }
}
