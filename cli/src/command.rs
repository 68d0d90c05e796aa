//! The command line.
//!
//! Nothing runs before the command is known, and nothing here starts a thread: `weft demo` has to
//! enter its namespaces while the process has one thread only.

use std::ffi::OsString;
use std::iter;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use weft_control_plane::policy::schema;
use weft_proxy::interception::{self, InitArgs};

use crate::{
    breaker, canary, check, completion, demo, edges, explain, identity, inject, install,
    proxy_status, stat, tap, version,
};

/// Exit code of a bad command line (`EX_USAGE`, sysexits.h).
pub const USAGE: u8 = 64;

/// A lightweight service mesh.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    after_help = "Exit codes: 0 done, 64 bad command line."
)]
struct Weft {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a meshed application on this machine and shows what the mesh does.
    Demo(demo::Options),
    /// Checks a mesh's files before a control plane reads them, or a cluster.
    Check(check::Options),
    /// Explains what is in force for a service, who said so, and what happens to a request.
    Explain(explain::Options),
    /// Shows who calls whom, and who still does it in plaintext.
    Edges(edges::Options),
    /// Shows success, rate, latency, retries and mutual TLS of what passes.
    Stat(stat::Options),
    /// Shows what passes now, again and again.
    Top(stat::top::Options),
    /// Lists circuit breakers, and opens, closes and resets them.
    #[command(subcommand)]
    Breaker(breaker::BreakerCommand),
    /// Shows requests as they end, of all sidecars or some.
    Tap(tap::Options),
    /// Adds the sidecar to the pods of manifests, and prints them.
    Inject(inject::Options),
    /// Prints the manifest that installs a mesh into a cluster, for kubectl apply.
    Install(install::Options),
    /// Prints the manifest of this version for a mesh that is installed.
    Upgrade(install::Options),
    /// Prints what is to be deleted when a mesh goes, for kubectl delete.
    Uninstall(install::UninstallOptions),
    /// Asks the control plane about its sidecars.
    #[command(subcommand)]
    Proxy(proxy_status::ProxyCommand),
    /// Shows who signs and whom the mesh trusts, and rotates either.
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Shows a service's split, and changes its weights.
    #[command(subcommand)]
    Canary(canary::CanaryCommand),
    /// Prints the version; of a control plane and its sidecars too, where one is named.
    Version(version::Options),
    /// Prints what a shell needs to complete this command line.
    Completion(completion::Options),
    /// Runs one of the programs that a mesh is made of.
    #[command(subcommand)]
    Internal(Internal),
}

#[derive(Debug, Subcommand)]
enum Internal {
    /// The sidecar; its settings are environment variables.
    #[command(disable_help_flag = true)]
    Proxy(Rest),
    /// The control plane.
    #[command(disable_help_flag = true)]
    ControlPlane(Rest),
    /// The admission webhook; its settings are environment variables.
    #[command(disable_help_flag = true)]
    Injector(Rest),
    /// A stand-in service.
    #[command(disable_help_flag = true)]
    App(Rest),
    /// Redirects the connections of this network namespace to the sidecar.
    Init(InitArgs),
    /// Prints the custom resource definition of TrafficPolicy, as the chart has it.
    Crd,
    /// Prints the reference page of TrafficPolicy, as docs/ has it.
    Reference,
}

/// What another program's own command line gets.
#[derive(Debug, clap::Args)]
struct Rest {
    #[arg(
        value_name = "ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<OsString>,
}

impl Rest {
    /// With a program's name in front.
    fn of(self, program: &str) -> impl Iterator<Item = OsString> {
        iter::once(OsString::from(program)).chain(self.args)
    }
}

/// Runs what `args` ask for, the program's name first. Exit codes: 0 when it is done, 64 for a bad
/// command line; others that a command has are in its help.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let weft = match Weft::try_parse_from(args) {
        Ok(weft) => weft,
        Err(error) => {
            // Nothing is left to do where even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match weft.command {
        Command::Demo(options) => demo::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Edges(options) => edges::run(&options),
        Command::Stat(options) => stat::run(&options),
        Command::Top(options) => stat::top::run(&options),
        Command::Breaker(command) => breaker::run(&command),
        Command::Tap(options) => tap::run(&options),
        Command::Inject(options) => inject::run(&options),
        Command::Install(options) => install::install(&options),
        Command::Upgrade(options) => install::upgrade(&options),
        Command::Uninstall(options) => install::uninstall(&options),
        Command::Proxy(command) => proxy_status::run(&command),
        Command::Identity(command) => identity::run(&command),
        Command::Canary(command) => canary::run(&command),
        Command::Version(options) => version::run(&options),
        Command::Completion(options) => completion::run(&options, Weft::command()),
        Command::Internal(Internal::Proxy(rest)) => weft_proxy::app::main(rest.of("weft-proxy")),
        Command::Internal(Internal::ControlPlane(rest)) => {
            weft_control_plane::app::main(rest.of("weft-control-plane"))
        }
        Command::Internal(Internal::Injector(rest)) => {
            weft_injector::app::main(rest.of("weft-injector"))
        }
        Command::Internal(Internal::App(rest)) => weft_sandbox::app::main(rest.of("weft-app")),
        Command::Internal(Internal::Init(args)) => interception::run(&args),
        Command::Internal(Internal::Crd) => {
            print!("{}", schema::crd());
            ExitCode::SUCCESS
        }
        Command::Internal(Internal::Reference) => {
            print!("{}", schema::page());
            ExitCode::SUCCESS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Weft::command().debug_assert();
    }

    /// By its path, as `proxy log-level`.
    fn subcommands(command: &clap::Command, path: &str, all: &mut Vec<String>) {
        for sub in command.get_subcommands() {
            let name = format!("{path} {}", sub.get_name());
            subcommands(sub, &name, all);
            all.push(name.trim().to_owned());
        }
    }

    #[test]
    fn shells_complete_every_subcommand() {
        use crate::completion::{Known, script};

        let mut all = Vec::new();
        subcommands(&Weft::command(), "", &mut all);
        assert!(all.len() > 25, "{all:?}");
        for shell in [Known::Bash, Known::Zsh, Known::Fish] {
            let script = String::from_utf8(script(shell, Weft::command())).expect("text");
            for path in &all {
                // How each generator spells where a word is completed.
                let (parent, name) = path.rsplit_once(' ').unwrap_or(("", path));
                let words = ["weft"].into_iter().chain(parent.split([' ', '-']));
                let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
                let parent = words.join("__subcmd__");
                let spelled = match shell {
                    Known::Bash => format!("{parent},{name})"),
                    Known::Zsh => format!("({name})"),
                    Known::Fish => format!("-a \"{name}\""),
                };
                assert!(script.contains(&spelled), "{shell:?}: {path}");
            }
        }
    }

    #[test]
    fn other_programs_get_their_own_arguments() {
        let weft = Weft::try_parse_from(["weft", "internal", "app", "--help", "--name", "x"])
            .expect("a good command line");
        let Command::Internal(Internal::App(rest)) = weft.command else {
            panic!("not the app: {:?}", weft.command);
        };
        let args: Vec<_> = rest.of("weft-app").collect();
        assert_eq!(args, ["weft-app", "--help", "--name", "x"]);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for args in [
            &["weft"][..],
            &["weft", "instal"],
            &["weft", "install", "--set", "injector.replicas=3"],
            &["weft", "upgrade", "--set", "namespace=Mesh"],
            &["weft", "uninstall", "--set", "image=mesh"],
            &["weft", "uninstall", "--ha"],
            &["weft", "demo", "--fast"],
            &["weft", "demo", "--platform", "quickstart"],
            &["weft", "demo", "--real-time"],
            &["weft", "demo", "--platforms", "--json"],
            &["weft", "check", "--pre", "-f", "x"],
            &["weft", "check", "--context", "c", "-f", "x"],
            &["weft", "check", "-f", "x", "-o", "yaml"],
            &[
                "weft",
                "check",
                "--pre",
                "--server",
                "http://127.0.0.1:15190",
            ],
            &["weft", "check", "--window", "1h"],
            &["weft", "edges", "--server", "127.0.0.1:15190"],
            &["weft", "stat", "--window", "61s"],
            &["weft", "stat", "--window", "1m", "--since-start"],
            &["weft", "stat", "--to", "cart"],
            &["weft", "stat", "--to", "shop/cart:http"],
            &["weft", "stat", "--side", "both"],
            &["weft", "top", "--interval", "0s"],
            &["weft", "top", "--iterations", "0"],
            &["weft", "breaker", "open"],
            &["weft", "breaker", "close", "--endpoint", "10.0.0.1:80"],
            &["weft", "breaker", "reset", "--endpoint", "10.0.0.1:80"],
            &["weft", "breaker", "open", "cart:80"],
            &[
                "weft",
                "breaker",
                "open",
                "shop/cart:80",
                "--endpoint",
                "cart-1",
            ],
            &["weft", "breaker", "list", "--workload", "a/b/c"],
            &["weft", "canary", "set", "shop"],
            &["weft", "canary", "set", "shop", "v2=-1"],
            &["weft", "canary", "set", "shop", "v2=1000001"],
            &["weft", "canary", "set", "shop", "v2"],
            &[
                "weft",
                "canary",
                "set",
                "shop",
                "v2=1",
                "-f",
                "x",
                "--no-wait",
            ],
            &["weft", "canary", "get", "shop", "-f", "x", "--context", "c"],
            &["weft", "completion", "tcsh"],
            &["weft", "version", "--token-file", "x"],
            &["weft", "proxy", "config"],
            &["weft", "proxy", "config", "web"],
            &["weft", "proxy", "log-level", "shop/web", "loud"],
            &["weft", "tap", "web"],
            &["weft", "tap", "shop/web", "-n", "shop"],
            &["weft", "tap", "--status", "6xx"],
            &["weft", "tap", "--outcome", "fine"],
            &["weft", "tap", "--rate", "1001"],
            &["weft", "tap", "--sample", "0"],
            &[
                "weft",
                "tap",
                "--from",
                "shop/web",
                "--direction",
                "outbound",
            ],
            &["weft", "inject"],
            &["weft", "inject", "-f", "x", "--image", "No Image"],
        ] {
            assert!(Weft::try_parse_from(args).is_err(), "{args:?}");
        }
    }
}
