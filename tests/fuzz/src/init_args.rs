//! Arguments of `weft-proxy init`, one per line.

use clap::Parser;
use ipnet::IpNet;
use weft_proxy::interception::{InitArgs, InterceptionPlan, rules};

/// Arguments on one command line, at most.
const MAX_ARGS: usize = 256;

#[derive(Debug, Parser)]
struct Init {
    #[command(flatten)]
    args: InitArgs,
}

/// Arguments are refused in words, or the plan can be asked for by arguments made of it, and its rules
/// say all of it.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let words = text.lines().take(MAX_ARGS);
    let plan = match plan(words.map(str::to_owned)) {
        Ok(plan) => plan,
        Err(why) => return assert!(!why.trim().is_empty()),
    };
    assert!(plan.exempt_uid.is_some() || plan.exempt_mark.is_some());
    assert_ne!(plan.exempt_mark, Some(0));
    assert_ne!(plan.outbound_port, plan.inbound_port);
    assert_eq!(self::plan(arguments(&plan)), Ok(plan.clone()));

    let printed = rules(&plan).to_string();
    let ports = plan
        .skip_outbound_ports
        .iter()
        .chain(&plan.skip_inbound_ports);
    let ports = ports.chain(&plan.inbound_ports);
    for port in ports.chain([&plan.outbound_port, &plan.inbound_port]) {
        assert!(*port > 0);
        assert!(says(&printed, &port.to_string()), "{port} in {printed}");
    }
    let subnets = plan.skip_subnets.iter().chain(&plan.skip_source_subnets);
    for subnet in subnets {
        let address = subnet.trunc().addr().to_string();
        assert!(printed.contains(&address), "{subnet} in {printed}");
    }
}

fn plan(words: impl Iterator<Item = String>) -> Result<InterceptionPlan, String> {
    let words = std::iter::once("init".to_owned()).chain(words);
    let init = Init::try_parse_from(words).map_err(|error| error.to_string())?;
    init.args.plan().map_err(|wrong| wrong.join("; "))
}

fn says(printed: &str, number: &str) -> bool {
    printed
        .split(|c: char| !c.is_ascii_digit())
        .any(|found| found == number)
}

fn arguments(plan: &InterceptionPlan) -> impl Iterator<Item = String> + use<> {
    let list = |items: Vec<String>| items.join(",");
    let ports = |ports: &std::collections::BTreeSet<u16>| {
        list(ports.iter().map(ToString::to_string).collect())
    };
    let subnets = |nets: &[IpNet]| list(nets.iter().map(ToString::to_string).collect());
    let uid = plan.exempt_uid.map(|uid| uid.to_string());
    let mark = plan.exempt_mark.map(|mark| format!("{mark:#x}"));
    let pairs = [
        ("--outbound-port", plan.outbound_port.to_string()),
        ("--inbound-port", plan.inbound_port.to_string()),
        ("--exempt-uid", uid.unwrap_or_default()),
        ("--exempt-mark", mark.unwrap_or_default()),
        ("--skip-outbound-ports", ports(&plan.skip_outbound_ports)),
        ("--skip-inbound-ports", ports(&plan.skip_inbound_ports)),
        ("--inbound-ports", ports(&plan.inbound_ports)),
        ("--skip-subnets", subnets(&plan.skip_subnets)),
        ("--skip-source-subnets", subnets(&plan.skip_source_subnets)),
    ];
    let said = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(name, value)| format!("{name}={value}"))
}
