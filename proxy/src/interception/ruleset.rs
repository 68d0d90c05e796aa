//! Rules as values, and as text.

use std::fmt;

use ipnet::IpNet;

/// Everything that is put into the kernel. Displays as an nft script would spell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// One for each address family.
    pub tables: Vec<Table>,
}

impl Ruleset {
    /// The same without IPv6, for a kernel that has none.
    pub fn without_ipv6(mut self) -> Self {
        self.tables.retain(|table| table.family != Family::V6);
        self
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "table {} {} {{", table.family, Table::NAME)?;
            for (position, chain) in table.chains.iter().enumerate() {
                if position > 0 {
                    writeln!(f)?;
                }
                let hook = chain.hook;
                writeln!(f, "\tchain {hook} {{")?;
                writeln!(
                    f,
                    "\t\ttype nat hook {hook} priority {}; policy accept;",
                    Hook::PRIORITY
                )?;
                for rule in &chain.rules {
                    writeln!(f, "\t\t{}", rule.text(table.family))?;
                }
                writeln!(f, "\t}}")?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

/// The table of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which packets it sees.
    pub family: Family,
    /// At most one for each hook.
    pub chains: Vec<Chain>,
}

impl Table {
    /// The table's name in both families. Whatever else it holds is replaced.
    pub const NAME: &str = "weft";
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// A NAT chain: it sees the first packet of each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where it looks; its name, too.
    pub hook: Hook,
    /// The first one that matches decides.
    pub rules: Vec<Rule>,
}

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets from elsewhere, before they are routed.
    Prerouting,
    /// Packets made here.
    Output,
}

impl Hook {
    /// Where destination NAT happens (`NF_IP_PRI_NAT_DST`).
    pub const PRIORITY: i32 = -100;

    /// As nft spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Conditions that must all hold, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The conditions.
    pub matches: Vec<Match>,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// A rule with one condition.
    pub fn new(matched: Match, action: Action) -> Self {
        Self {
            matches: vec![matched],
            action,
        }
    }

    /// The rule as nft spells it in a table of `family`.
    pub(super) fn text(&self, family: Family) -> String {
        let mut words: Vec<String> = self.matches.iter().map(|m| m.text(family)).collect();
        words.push(match self.action {
            Action::Return => "return".to_owned(),
            Action::Redirect(port) => format!("redirect to :{port}"),
        });
        words.join(" ")
    }
}

/// A condition on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is TCP's first: SYN alone of FIN, SYN, RST and ACK.
    TcpOpening,
    /// It is TCP to this port.
    DestinationPort(u16),
    /// It goes there. Of the table's family.
    Destination(IpNet),
    /// It comes from there. Of the table's family.
    Source(IpNet),
    /// It carries this mark, exactly.
    Mark(u32),
    /// A process of this uid made its socket.
    Uid(u32),
    /// It leaves over `lo`.
    ToLoopback,
    /// It arrives over `lo`.
    FromLoopback,
}

impl Match {
    fn text(&self, family: Family) -> String {
        match self {
            Self::TcpOpening => "tcp flags & (fin | syn | rst | ack) == syn".to_owned(),
            Self::DestinationPort(port) => format!("tcp dport {port}"),
            Self::Destination(subnet) => format!("{family} daddr {}", short(*subnet)),
            Self::Source(subnet) => format!("{family} saddr {}", short(*subnet)),
            Self::Mark(mark) => format!("meta mark {mark:#010x}"),
            Self::Uid(uid) => format!("meta skuid {uid}"),
            Self::ToLoopback => "oifname \"lo\"".to_owned(),
            Self::FromLoopback => "iifname \"lo\"".to_owned(),
        }
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leaves the connection as it is.
    Return,
    /// Hands the connection to a port of this network namespace.
    Redirect(u16),
}

/// A single address without its prefix length.
fn short(subnet: IpNet) -> String {
    if subnet.prefix_len() == subnet.max_prefix_len() {
        subnet.addr().to_string()
    } else {
        subnet.to_string()
    }
}
