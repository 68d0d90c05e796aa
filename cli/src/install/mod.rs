//! `weft install`, `weft upgrade` and `weft uninstall`: manifests for `kubectl`. No cluster is asked.
//!
//! What is printed is the chart as Helm renders it, with three values in their places; whoever wants
//! another value changed uses Helm. On stdout is the manifest alone, on stderr what to do next, whether or
//! not that is a terminal.

mod deletion;
mod next;
mod rendering;
#[cfg(test)]
mod tests;
mod values;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;

use crate::command::USAGE;
use rendering::{HIGHLY_AVAILABLE, PLAIN};
use values::{SetTwice, Setting, Values};

/// What is installed.
#[derive(Debug, Args)]
#[command(after_help = "\
  weft install | kubectl apply -f -

The manifest is the chart charts/weft as Helm renders it, after the namespace that it goes into. weft
install and weft upgrade print the same. Give an upgrade what the installation was given: no cluster is
asked. What can be set, for every other value of the chart use helm:

  namespace=NAME      where the control plane is [default: weft]
  image=PREFIX        what the images weft and weft-proxy are under, such as
                      registry.example:5000/mesh [default: nothing]
  trustDomain=NAME    the trust domain of every identity [default: cluster.local]

Exit codes:
  0   the manifest is on stdout, and what to do next on stderr
  64  bad command line, or stdout cannot be written")]
pub struct Options {
    /// For a cluster that is relied on: the chart's values-ha.yaml.
    #[arg(long)]
    ha: bool,
    /// One of the values below. May be repeated, and hold several with commas between them.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = Setting::parse)]
    set: Vec<Setting>,
}

/// What is deleted.
#[derive(Debug, Args)]
#[command(after_help = "\
What is printed names every object of weft install, with and without --ha, and what the control plane
itself makes in its namespace. Some of it may not be there:

  weft uninstall | kubectl delete --ignore-not-found -f -

The namespace is deleted with everything in it: say which one it is where weft install was told.
The definition of TrafficPolicy is kept, and every policy with it. What else is left, and how to remove
it, is said on stderr.

Exit codes:
  0   the list is on stdout, and what is left on stderr
  64  bad command line, or stdout cannot be written")]
pub struct UninstallOptions {
    /// namespace=NAME: where the control plane is [default: weft].
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = Setting::parse_namespace)]
    set: Vec<Setting>,
    /// Does not delete the namespace itself.
    #[arg(long)]
    keep_namespace: bool,
}

/// What is printed.
#[derive(Debug)]
struct Printed {
    /// On stdout, for kubectl.
    manifest: String,
    /// On stderr, for people.
    said: String,
}

/// Prints what installs a mesh. Exit codes are in the command's help.
pub fn install(options: &Options) -> ExitCode {
    print("weft install", made(options, next::after_install))
}

/// Prints the same for a mesh that is there. Exit codes are in the command's help.
pub fn upgrade(options: &Options) -> ExitCode {
    print("weft upgrade", made(options, next::after_upgrade))
}

/// Prints what is to be deleted. Exit codes are in the command's help.
pub fn uninstall(options: &UninstallOptions) -> ExitCode {
    let values = Values::new(&options.set);
    let printed = values.map(|values| Printed {
        manifest: deletion::manifest(&values, options.keep_namespace),
        said: next::after_uninstall(&values.namespace, options.keep_namespace),
    });
    print("weft uninstall", printed)
}

fn made(options: &Options, said: impl Fn(&str) -> String) -> Result<Printed, SetTwice> {
    let values = Values::new(&options.set)?;
    let rendering = if options.ha { HIGHLY_AVAILABLE } else { PLAIN };
    Ok(Printed {
        manifest: rendering::manifest(rendering, &values),
        said: said(&values.namespace),
    })
}

fn print(command: &str, printed: Result<Printed, SetTwice>) -> ExitCode {
    let Printed { manifest, said } = match printed {
        Ok(printed) => printed,
        Err(error) => {
            eprintln!("{command}: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let out = io::stdout();
    // Half a manifest is nothing that kubectl behind a pipe should take for done.
    if let Err(error) = out.lock().write_all(manifest.as_bytes()) {
        eprintln!("{command}: stdout cannot be written: {error}");
        return ExitCode::from(USAGE);
    }
    eprint!("{said}");
    if out.is_terminal() {
        let verb = if command == "weft uninstall" {
            "delete"
        } else {
            "apply"
        };
        eprintln!("\nNothing is done yet: that is for {command} | kubectl {verb} -f -");
    }
    ExitCode::SUCCESS
}
