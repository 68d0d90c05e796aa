//! Rules into the kernel and out of it: nf_tables over netlink.
//!
//! A ruleset is one batch, which the kernel takes whole or not at all. Afterwards the rules are
//! read back and counted, because a sidecar behind rules that are not there is a workload without
//! policy.

use ipnet::IpNet;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use super::ruleset::{Action, Chain, Family, Hook, Match, Rule, Ruleset, Table};
use crate::netlink::{self, Attributes, Message, Socket, flags};

/// Message types (linux/netfilter/nfnetlink.h, nf_tables.h); those of nf_tables carry the
/// subsystem's number in their upper byte.
mod kind {
    use super::NFNL_SUBSYS_NFTABLES;

    pub(super) const BATCH_BEGIN: u16 = 0x10;
    pub(super) const BATCH_END: u16 = 0x11;
    const NFT: u16 = NFNL_SUBSYS_NFTABLES << 8;
    pub(super) const NEWTABLE: u16 = NFT;
    pub(super) const DELTABLE: u16 = NFT | 2;
    pub(super) const NEWCHAIN: u16 = NFT | 3;
    pub(super) const NEWRULE: u16 = NFT | 6;
    pub(super) const GETRULE: u16 = NFT | 7;
}

/// Attribute types (linux/netfilter/nf_tables.h).
mod attribute {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const META_REGISTER: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const PAYLOAD_REGISTER: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LENGTH: u16 = 4;
    pub(super) const BITWISE_SOURCE: u16 = 1;
    pub(super) const BITWISE_DESTINATION: u16 = 2;
    pub(super) const BITWISE_LENGTH: u16 = 3;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_XOR: u16 = 5;
    pub(super) const CMP_REGISTER: u16 = 1;
    pub(super) const CMP_OPERATOR: u16 = 2;
    pub(super) const CMP_DATA: u16 = 3;
    pub(super) const IMMEDIATE_REGISTER: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const REDIRECT_PORT_REGISTER: u16 = 1;
}

/// What a `meta` expression loads.
mod meta {
    pub(super) const MARK: u32 = 3;
    pub(super) const IIFNAME: u32 = 6;
    pub(super) const OIFNAME: u32 = 7;
    pub(super) const SKUID: u32 = 10;
    pub(super) const L4PROTO: u32 = 16;
}

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NF_ACCEPT: u32 = 1;
const NFT_RETURN: i32 = -5;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_CMP_EQ: u32 = 0;
const NFT_PAYLOAD_NETWORK: u32 = 1;
const NFT_PAYLOAD_TRANSPORT: u32 = 2;
const IPPROTO_TCP: u8 = 6;
/// Of the destination port and of the flags in the TCP header.
const TCP_PORT_OFFSET: u32 = 2;
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;
/// `struct nfgenmsg`, which opens every message.
const FAMILY_HEADER: usize = 4;
/// Interface names are compared whole, zeros included.
const LOOPBACK_NAME: &[u8; 16] = b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// What [`apply`] or [`undo`] reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// False where the kernel has no IPv6, so that there is nothing to intercept.
    pub ipv6: bool,
    /// Rules that are in the kernel now.
    pub rules: usize,
}

/// Why the rules are not in force (nothing has changed then, but for [`Error::Incomplete`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a step.
    #[error("{step}: {source}{}", hint(source))]
    Refused {
        /// What was to be done.
        step: String,
        /// Why it was not.
        source: netlink::Error,
    },
    /// The kernel took the rules and does not have them: another program removed some.
    #[error("chain {chain} has {found} rules of {expected}: does another program change it?")]
    Incomplete {
        /// Family, table and chain.
        chain: String,
        /// Rules that were sent.
        expected: usize,
        /// Rules that are there.
        found: usize,
    },
}

/// What a person can do about a refusal.
fn hint(error: &netlink::Error) -> &'static str {
    match error.errno() {
        Some(Errno::PERM | Errno::ACCESS) => " (needs CAP_NET_ADMIN in this network namespace)",
        Some(Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::NOENT) => {
            " (kernel without nf_tables NAT)"
        }
        _ => "",
    }
}

/// Puts `ruleset` into the network namespace of the calling thread in place of any earlier one,
/// and reads it back. Where the kernel has no IPv6, its table is left out.
pub fn apply(ruleset: &Ruleset) -> Result<Applied, Error> {
    let ipv6 = has_ipv6();
    let ruleset = if ipv6 {
        ruleset.clone()
    } else {
        ruleset.clone().without_ipv6()
    };
    let mut socket = open()?;
    commit(&mut socket, replacement(&ruleset))?;
    let rules = verify(&mut socket, &ruleset)?;
    Ok(Applied { ipv6, rules })
}

/// Removes the tables from the network namespace of the calling thread, where there are any.
/// Redirected connections that are still open break.
pub fn undo() -> Result<Applied, Error> {
    let ipv6 = has_ipv6();
    let families: &[Family] = if ipv6 {
        &[Family::V4, Family::V6]
    } else {
        &[Family::V4]
    };
    let steps = families.iter().flat_map(|family| removal(*family));
    commit(&mut open()?, steps.collect())?;
    Ok(Applied { ipv6, rules: 0 })
}

/// Whether an application here can use IPv6 at all. Asked of the kernel and not concluded from a
/// refused rule: IPv6 that works without rules would be a way around the sidecar.
fn has_ipv6() -> bool {
    !matches!(
        rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None),
        Err(Errno::AFNOSUPPORT)
    )
}

fn open() -> Result<Socket, Error> {
    Socket::netfilter().map_err(|source| Error::Refused {
        step: "open a netfilter socket".to_owned(),
        source,
    })
}

/// One message of a transaction, and what to call it when it is refused.
struct Step {
    name: String,
    message: Message,
}

/// Creating a table before deleting it makes the deletion succeed where there was none.
fn removal(family: Family) -> [Step; 2] {
    let table = |verb, kind, flags| {
        let mut message = Message::new(kind, flags, &family_header(family));
        message.string(attribute::TABLE_NAME, Table::NAME);
        Step {
            name: format!("{verb} table {family} {}", Table::NAME),
            message,
        }
    };
    [
        table("create", kind::NEWTABLE, flags::CREATE),
        table("delete", kind::DELTABLE, 0),
    ]
}

fn replacement(ruleset: &Ruleset) -> Vec<Step> {
    let mut steps = Vec::new();
    for table in &ruleset.tables {
        let family = table.family;
        let [create, delete] = removal(family);
        let create_again = Step {
            name: create.name.clone(),
            message: create.message.clone(),
        };
        steps.extend([create, delete, create_again]);
        for chain in &table.chains {
            let place = place(family, chain.hook);
            steps.push(Step {
                name: format!("create chain {place}"),
                message: new_chain(family, chain),
            });
            steps.extend(chain.rules.iter().map(|rule| Step {
                name: format!("add to chain {place} the rule {:?}", rule.text(family)),
                message: new_rule(family, chain.hook, rule),
            }));
        }
    }
    steps
}

fn place(family: Family, hook: Hook) -> String {
    format!("{family} {} {hook}", Table::NAME)
}

/// Makes all of the changes or none.
fn commit(socket: &mut Socket, steps: Vec<Step>) -> Result<(), Error> {
    let (names, messages): (Vec<_>, Vec<_>) = steps
        .into_iter()
        .map(|step| (step.name, step.message))
        .unzip();
    let [subsystem_high, subsystem_low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let header = [0, 0, subsystem_high, subsystem_low];
    let begin = Message::new(kind::BATCH_BEGIN, 0, &header);
    let end = Message::new(kind::BATCH_END, 0, &header);
    socket.batch(begin, messages, end).map_err(|source| {
        // Position 0 is the transaction as a whole.
        let step = match source {
            netlink::Error::Refused { position, .. } => {
                position.checked_sub(1).and_then(|p| names.get(p))
            }
            _ => None,
        };
        Error::Refused {
            step: step.map_or("change the nf_tables ruleset".to_owned(), String::clone),
            source,
        }
    })
}

/// Counts the rules of each chain; returns their number.
fn verify(socket: &mut Socket, ruleset: &Ruleset) -> Result<usize, Error> {
    let mut total = 0;
    for table in &ruleset.tables {
        for chain in &table.chains {
            let found = count(socket, table.family, chain.hook)?;
            let expected = chain.rules.len();
            if found != expected {
                return Err(Error::Incomplete {
                    chain: place(table.family, chain.hook),
                    expected,
                    found,
                });
            }
            total += found;
        }
    }
    Ok(total)
}

/// Rules in one chain of ours. The kernel is asked for these only, but old ones list all.
fn count(socket: &mut Socket, family: Family, hook: Hook) -> Result<usize, Error> {
    let mut message = Message::new(kind::GETRULE, 0, &family_header(family));
    message.string(attribute::RULE_TABLE, Table::NAME);
    message.string(attribute::RULE_CHAIN, hook.name());
    let refused = |source| Error::Refused {
        step: format!("list chain {}", place(family, hook)),
        source,
    };
    let replies = socket.dump(&message).map_err(refused)?;
    let ours = |payload: &[u8]| {
        let attributes = payload.get(FAMILY_HEADER..).unwrap_or(&[]);
        let has = |kind, name| {
            Attributes::new(attributes)
                .flatten()
                .any(|a| a.kind == kind && a.text() == Some(name))
        };
        has(attribute::RULE_TABLE, Table::NAME) && has(attribute::RULE_CHAIN, hook.name())
    };
    let rules = replies.iter().filter(|r| r.kind == kind::NEWRULE);
    Ok(rules.filter(|reply| ours(&reply.payload)).count())
}

fn family_header(family: Family) -> [u8; FAMILY_HEADER] {
    let number = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    [number.as_raw() as u8, 0, 0, 0]
}

fn new_chain(family: Family, chain: &Chain) -> Message {
    let hook = match chain.hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    };
    let mut message = Message::new(kind::NEWCHAIN, flags::CREATE, &family_header(family));
    message
        .string(attribute::CHAIN_TABLE, Table::NAME)
        .string(attribute::CHAIN_NAME, chain.hook.name())
        .nested(attribute::CHAIN_HOOK, |nested| {
            nested.u32_be(attribute::HOOK_NUMBER, hook);
            nested.u32_be(attribute::HOOK_PRIORITY, Hook::PRIORITY.cast_unsigned());
        })
        .u32_be(attribute::CHAIN_POLICY, NF_ACCEPT)
        .string(attribute::CHAIN_TYPE, "nat");
    message
}

fn new_rule(family: Family, hook: Hook, rule: &Rule) -> Message {
    let flags = flags::CREATE | flags::APPEND;
    let mut message = Message::new(kind::NEWRULE, flags, &family_header(family));
    message
        .string(attribute::RULE_TABLE, Table::NAME)
        .string(attribute::RULE_CHAIN, hook.name())
        .nested(attribute::RULE_EXPRESSIONS, |expressions| {
            for matched in &rule.matches {
                condition(expressions, *matched);
            }
            action(expressions, rule.action);
        });
    message
}

/// Loads what is looked at into register 1 and compares it; a rule ends where one differs.
fn condition(expressions: &mut Message, matched: Match) {
    match matched {
        Match::TcpOpening => {
            is_tcp(expressions);
            load_payload(expressions, NFT_PAYLOAD_TRANSPORT, TCP_FLAGS_OFFSET, 1);
            mask(expressions, &[TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK]);
            compare(expressions, &[TCP_SYN]);
        }
        Match::DestinationPort(port) => {
            is_tcp(expressions);
            load_payload(expressions, NFT_PAYLOAD_TRANSPORT, TCP_PORT_OFFSET, 2);
            compare(expressions, &port.to_be_bytes());
        }
        Match::Source(subnet @ IpNet::V4(_)) => address(expressions, 12, subnet),
        Match::Destination(subnet @ IpNet::V4(_)) => address(expressions, 16, subnet),
        Match::Source(subnet @ IpNet::V6(_)) => address(expressions, 8, subnet),
        Match::Destination(subnet @ IpNet::V6(_)) => address(expressions, 24, subnet),
        Match::Mark(mark) => {
            load_meta(expressions, meta::MARK);
            compare(expressions, &mark.to_ne_bytes());
        }
        Match::Uid(uid) => {
            load_meta(expressions, meta::SKUID);
            compare(expressions, &uid.to_ne_bytes());
        }
        Match::ToLoopback => {
            load_meta(expressions, meta::OIFNAME);
            compare(expressions, LOOPBACK_NAME);
        }
        Match::FromLoopback => {
            load_meta(expressions, meta::IIFNAME);
            compare(expressions, LOOPBACK_NAME);
        }
    }
}

fn is_tcp(expressions: &mut Message) {
    load_meta(expressions, meta::L4PROTO);
    compare(expressions, &[IPPROTO_TCP]);
}

/// Compares the address at `offset` of the network header, or the prefix of it.
fn address(expressions: &mut Message, offset: u32, subnet: IpNet) {
    let (value, netmask) = match subnet.trunc() {
        IpNet::V4(net) => (
            net.network().octets().to_vec(),
            net.netmask().octets().to_vec(),
        ),
        IpNet::V6(net) => (
            net.network().octets().to_vec(),
            net.netmask().octets().to_vec(),
        ),
    };
    load_payload(expressions, NFT_PAYLOAD_NETWORK, offset, value.len() as u32);
    if subnet.prefix_len() < subnet.max_prefix_len() {
        mask(expressions, &netmask);
    }
    compare(expressions, &value);
}

fn action(expressions: &mut Message, action: Action) {
    match action {
        Action::Return => expression(expressions, "immediate", |data| {
            data.u32_be(attribute::IMMEDIATE_REGISTER, NFT_REG_VERDICT);
            data.nested(attribute::IMMEDIATE_DATA, |nested| {
                nested.nested(attribute::DATA_VERDICT, |verdict| {
                    verdict.u32_be(attribute::VERDICT_CODE, NFT_RETURN.cast_unsigned());
                });
            });
        }),
        Action::Redirect(port) => {
            expression(expressions, "immediate", |data| {
                data.u32_be(attribute::IMMEDIATE_REGISTER, NFT_REG_1);
                value_of(data, attribute::IMMEDIATE_DATA, &port.to_be_bytes());
            });
            expression(expressions, "redir", |data| {
                data.u32_be(attribute::REDIRECT_PORT_REGISTER, NFT_REG_1);
            });
        }
    }
}

fn load_meta(expressions: &mut Message, key: u32) {
    expression(expressions, "meta", |data| {
        data.u32_be(attribute::META_REGISTER, NFT_REG_1);
        data.u32_be(attribute::META_KEY, key);
    });
}

fn load_payload(expressions: &mut Message, base: u32, offset: u32, length: u32) {
    expression(expressions, "payload", |data| {
        data.u32_be(attribute::PAYLOAD_REGISTER, NFT_REG_1);
        data.u32_be(attribute::PAYLOAD_BASE, base);
        data.u32_be(attribute::PAYLOAD_OFFSET, offset);
        data.u32_be(attribute::PAYLOAD_LENGTH, length);
    });
}

/// Keeps the bits of register 1 that are set in `bits`.
fn mask(expressions: &mut Message, bits: &[u8]) {
    expression(expressions, "bitwise", |data| {
        data.u32_be(attribute::BITWISE_SOURCE, NFT_REG_1);
        data.u32_be(attribute::BITWISE_DESTINATION, NFT_REG_1);
        data.u32_be(attribute::BITWISE_LENGTH, bits.len() as u32);
        value_of(data, attribute::BITWISE_MASK, bits);
        value_of(data, attribute::BITWISE_XOR, &vec![0; bits.len()]);
    });
}

fn compare(expressions: &mut Message, value: &[u8]) {
    expression(expressions, "cmp", |data| {
        data.u32_be(attribute::CMP_REGISTER, NFT_REG_1);
        data.u32_be(attribute::CMP_OPERATOR, NFT_CMP_EQ);
        value_of(data, attribute::CMP_DATA, value);
    });
}

fn expression(expressions: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    expressions.nested(attribute::LIST_ELEMENT, |element| {
        element.string(attribute::EXPRESSION_NAME, name);
        element.nested(attribute::EXPRESSION_DATA, fill);
    });
}

fn value_of(data: &mut Message, kind: u16, value: &[u8]) {
    data.nested(kind, |nested| {
        nested.attribute(attribute::DATA_VALUE, value);
    });
}
