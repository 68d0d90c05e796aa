//! What is wanted, and the rules that follow from it.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};
use weft_proto::names::{PROXY_UID, ports, sentinel};

use super::ruleset::{Action, Chain, Family, Hook, Match, Rule, Ruleset, Table};

/// What `weft-proxy init` is asked for. At least one exemption must be set, or the sidecar's own
/// connections come back to it for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterceptionPlan {
    /// Where the application's connections go.
    pub outbound_port: u16,
    /// Where connections to the application go.
    pub inbound_port: u16,
    /// Connections of this uid pass.
    pub exempt_uid: Option<u32>,
    /// Connections whose packets carry this mark pass. Never 0, which is no mark.
    pub exempt_mark: Option<u32>,
    /// Destination ports that the application reaches directly.
    pub skip_outbound_ports: BTreeSet<u16>,
    /// Destinations that the application reaches directly.
    pub skip_subnets: Vec<IpNet>,
    /// Ports of the application that are reached directly.
    pub skip_inbound_ports: BTreeSet<u16>,
    /// Clients that reach the application directly.
    pub skip_source_subnets: Vec<IpNet>,
    /// The only ports of the application whose connections are taken; empty: all.
    pub inbound_ports: BTreeSet<u16>,
}

impl InterceptionPlan {
    /// Everything is taken; the sidecar passes by its uid.
    pub fn by_uid(uid: u32) -> Self {
        Self {
            outbound_port: ports::OUTBOUND,
            inbound_port: ports::INBOUND,
            exempt_uid: Some(uid),
            exempt_mark: None,
            skip_outbound_ports: BTreeSet::new(),
            skip_subnets: Vec::new(),
            skip_inbound_ports: BTreeSet::new(),
            skip_source_subnets: Vec::new(),
            inbound_ports: BTreeSet::new(),
        }
    }

    /// Everything is taken; the sidecar passes by the mark on its packets.
    pub fn by_mark(mark: u32) -> Self {
        Self {
            exempt_uid: None,
            exempt_mark: Some(mark),
            ..Self::by_uid(PROXY_UID)
        }
    }
}

impl Default for InterceptionPlan {
    fn default() -> Self {
        Self::by_uid(PROXY_UID)
    }
}

/// The rules for both address families.
///
/// Only a packet that opens a connection is redirected: conntrack, which starts with the rules,
/// takes the next packet of an older connection for its first, and a redirect would cut it.
pub fn rules(plan: &InterceptionPlan) -> Ruleset {
    Ruleset {
        tables: [Family::V4, Family::V6]
            .map(|family| Table {
                family,
                chains: vec![output(plan, family), prerouting(plan, family)],
            })
            .into(),
    }
}

/// Connections made here. The first rule that matches decides.
fn output(plan: &InterceptionPlan, family: Family) -> Chain {
    let mut rules = vec![
        // Before the exemption: the sidecar's own connection to it must come back.
        Rule {
            matches: sentinel(family),
            action: Action::Redirect(plan.outbound_port),
        },
    ];
    let mut pass = |matched| rules.push(Rule::new(matched, Action::Return));
    if let Some(mark) = plan.exempt_mark {
        pass(Match::Mark(mark));
    }
    if let Some(uid) = plan.exempt_uid {
        pass(Match::Uid(uid));
    }
    // By interface, because the pod's own address is reached over `lo` too; by address, because
    // a routing rule may send a loopback address elsewhere.
    pass(Match::ToLoopback);
    pass(Match::Destination(loopback(family)));
    for port in &plan.skip_outbound_ports {
        pass(Match::DestinationPort(*port));
    }
    for subnet in of(&plan.skip_subnets, family) {
        pass(Match::Destination(subnet));
    }
    rules.push(Rule::new(
        Match::TcpOpening,
        Action::Redirect(plan.outbound_port),
    ));
    Chain {
        hook: Hook::Output,
        rules,
    }
}

/// Connections that arrive. The first rule that matches decides.
fn prerouting(plan: &InterceptionPlan, family: Family) -> Chain {
    let mut rules = Vec::new();
    let mut pass = |matched| rules.push(Rule::new(matched, Action::Return));
    pass(Match::FromLoopback);
    // A connection straight to a listener of ours stays visible as one: the sidecar sees that no
    // redirect is behind it, and closes it.
    let own = [plan.outbound_port, plan.inbound_port, ports::ADMIN];
    let skipped: BTreeSet<u16> = plan.skip_inbound_ports.iter().copied().chain(own).collect();
    for port in skipped {
        pass(Match::DestinationPort(port));
    }
    for subnet in of(&plan.skip_source_subnets, family) {
        pass(Match::Source(subnet));
    }
    let redirect = Action::Redirect(plan.inbound_port);
    if plan.inbound_ports.is_empty() {
        rules.push(Rule::new(Match::TcpOpening, redirect));
    }
    for port in &plan.inbound_ports {
        rules.push(Rule {
            matches: vec![Match::TcpOpening, Match::DestinationPort(*port)],
            action: redirect,
        });
    }
    Chain {
        hook: Hook::Prerouting,
        rules,
    }
}

fn sentinel(family: Family) -> Vec<Match> {
    let address = match family {
        Family::V4 => sentinel::V4,
        Family::V6 => sentinel::V6,
    };
    vec![
        Match::Destination(IpNet::from(address.ip())),
        Match::DestinationPort(address.port()),
    ]
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Family::V6 => Ipv6Net::from(Ipv6Addr::LOCALHOST).into(),
    }
}

/// The subnets of one family, without host bits, each once.
fn of(subnets: &[IpNet], family: Family) -> BTreeSet<IpNet> {
    subnets
        .iter()
        .filter(|subnet| matches!(subnet, IpNet::V4(_)) == (family == Family::V4))
        .map(IpNet::trunc)
        .collect()
}
