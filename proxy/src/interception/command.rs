//! The command line of `weft-proxy init`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use ipnet::IpNet;
use weft_proto::names::{PROXY_UID, ports};

use super::nftables::{self, Applied};
use super::plan::{InterceptionPlan, rules};

/// Entries that one list may have: all of them in both families still fit into one transaction,
/// which has to fit into a socket's buffer.
const MAX_ENTRIES: usize = 64;
/// Exit status for arguments that make no sense (`EX_USAGE`, sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Redirects the TCP connections of this network namespace to the sidecar.
#[derive(Clone, Debug, clap::Args)]
pub struct InitArgs {
    /// Port of the sidecar's listener for connections that the application makes
    #[arg(long, value_name = "PORT", default_value_t = ports::OUTBOUND, value_parser = port)]
    pub outbound_port: u16,
    /// Port of the sidecar's listener for connections made to the application
    #[arg(long, value_name = "PORT", default_value_t = ports::INBOUND, value_parser = port)]
    pub inbound_port: u16,
    /// Connections of this uid are the sidecar's own [default: 2140, where no mark is given]
    #[arg(long, value_name = "UID")]
    pub exempt_uid: Option<u32>,
    /// Connections with this packet mark are the sidecar's own (decimal, or hexadecimal with 0x)
    #[arg(long, value_name = "MARK", value_parser = mark)]
    pub exempt_mark: Option<u32>,
    /// Destination ports that the application reaches directly, separated by commas
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port)]
    pub skip_outbound_ports: Vec<u16>,
    /// Ports of the application that are reached directly, separated by commas
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port)]
    pub skip_inbound_ports: Vec<u16>,
    /// Addresses and subnets that the application reaches directly, separated by commas
    #[arg(long, value_name = "SUBNETS", value_delimiter = ',', value_parser = subnet)]
    pub skip_subnets: Vec<IpNet>,
    /// Addresses and subnets whose connections reach the application directly
    #[arg(long, value_name = "SUBNETS", value_delimiter = ',', value_parser = subnet)]
    pub skip_source_subnets: Vec<IpNet>,
    /// The only ports of the application to intercept, separated by commas [default: all]
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port)]
    pub inbound_ports: Vec<u16>,
    /// Show the rules and change nothing
    #[arg(long, conflicts_with = "undo")]
    pub print: bool,
    /// Remove the rules
    #[arg(long)]
    pub undo: bool,
}

impl InitArgs {
    /// What is asked for, or everything that is wrong with it.
    pub fn plan(&self) -> Result<InterceptionPlan, Vec<String>> {
        let mut wrong = Vec::new();
        if self.outbound_port == self.inbound_port {
            wrong.push(format!(
                "--outbound-port and --inbound-port are both {}",
                self.outbound_port
            ));
        }
        let lists = [
            ("--skip-outbound-ports", self.skip_outbound_ports.len()),
            ("--skip-inbound-ports", self.skip_inbound_ports.len()),
            ("--skip-subnets", self.skip_subnets.len()),
            ("--skip-source-subnets", self.skip_source_subnets.len()),
            ("--inbound-ports", self.inbound_ports.len()),
        ];
        for (name, length) in lists {
            if length > MAX_ENTRIES {
                wrong.push(format!(
                    "{name} has {length} entries of at most {MAX_ENTRIES}"
                ));
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let default_uid = self.exempt_mark.is_none().then_some(PROXY_UID);
        Ok(InterceptionPlan {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            exempt_uid: self.exempt_uid.or(default_uid),
            exempt_mark: self.exempt_mark,
            skip_outbound_ports: self.skip_outbound_ports.iter().copied().collect(),
            skip_subnets: self.skip_subnets.clone(),
            skip_inbound_ports: self.skip_inbound_ports.iter().copied().collect(),
            skip_source_subnets: self.skip_source_subnets.clone(),
            inbound_ports: self.inbound_ports.iter().copied().collect(),
        })
    }
}

/// Does what `args` ask for, and says so: 0 when it is done, 64 for bad arguments, 1 where the
/// kernel refused.
pub fn run(args: &InitArgs) -> ExitCode {
    let plan = match args.plan() {
        Ok(plan) => plan,
        Err(wrong) => {
            let mut text = String::new();
            for line in wrong {
                let _ = writeln!(text, "weft-proxy init: {line}");
            }
            complain(&text);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let ruleset = rules(&plan);
    if args.print {
        say(&ruleset.to_string());
        return ExitCode::SUCCESS;
    }
    let (done, result) = if args.undo {
        ("removed", nftables::undo())
    } else {
        ("applied", nftables::apply(&ruleset))
    };
    match result {
        Ok(Applied { ipv6, rules }) => {
            let families = if ipv6 {
                "IPv4 and IPv6"
            } else {
                "IPv4 only: this kernel has no IPv6"
            };
            say(&format!(
                "interception {done} ({families}), {rules} rules in force\n"
            ));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("weft-proxy init: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// A reader that has gone away is no reason to fail.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn port(text: &str) -> Result<u16, String> {
    match text.trim().parse() {
        Ok(0) | Err(_) => Err("a port is a number from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    }
}

fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(0) => Err("packets without a mark have mark 0".to_owned()),
        Ok(mark) => Ok(mark),
        Err(_) => Err("a mark is a number of 32 bits, such as 0x2140".to_owned()),
    }
}

fn subnet(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| "not an address or subnet such as 10.0.0.0/8 or fd00::/8".to_owned())
}
