//! `weft completion`: what a shell needs to complete the command line.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use clap_complete::Shell;

/// For which shell.
#[derive(Debug, Args)]
#[command(after_help = "\
For now:            source <(weft completion bash)
For good, in bash:  weft completion bash > ~/.local/share/bash-completion/completions/weft
          in zsh:   weft completion zsh > \"${fpath[1]}/_weft\"
          in fish:  weft completion fish > ~/.config/fish/completions/weft.fish")]
pub struct Options {
    shell: Known,
}

/// Shells that are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Known {
    /// bash 4.4 or newer.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// Prints the script. `command` is the whole command line.
pub(crate) fn run(options: &Options, command: clap::Command) -> ExitCode {
    // Fails only where nobody reads any more.
    let _ = io::stdout()
        .lock()
        .write_all(&script(options.shell, command));
    ExitCode::SUCCESS
}

/// What the shell is to read.
pub(crate) fn script(shell: Known, mut command: clap::Command) -> Vec<u8> {
    let shell = match shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "weft", &mut script);
    script
}
