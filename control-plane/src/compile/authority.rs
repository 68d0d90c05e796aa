//! Authorities of HTTP requests, and the services that they name.

use std::net::IpAddr;

use crate::index::{Model, Service, ServicePort};

/// What follows a service's name and namespace.
const SERVICE_DOMAIN: &str = "svc";
/// The cluster's DNS domain, under which services are known by their full names.
const CLUSTER_DOMAIN_SUFFIX: &str = ".cluster.local";
/// What an authority without a port means.
const DEFAULT_PORT: u16 = 80;
/// The longest name of a host (RFC 1035, 2.3.4) and a port.
const MAX_LEN: usize = 253 + 6;

/// What an authority names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Authority<'a> {
    /// An address.
    Address(IpAddr, u16),
    /// A host by its name, without a trailing dot.
    Host(&'a str, u16),
}

/// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(super) fn parse(authority: &str) -> Option<Authority<'_>> {
    if authority.is_empty() || authority.len() > MAX_LEN {
        return None;
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => DEFAULT_PORT,
            None => return None,
        };
        let ip: std::net::Ipv6Addr = host.parse().ok()?;
        return Some(Authority::Address(IpAddr::V6(ip).to_canonical(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (authority, DEFAULT_PORT),
    };
    if let Ok(ip) = host.parse::<std::net::Ipv4Addr>() {
        return Some(Authority::Address(IpAddr::V4(ip), port));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then_some(Authority::Host(host, port))
}

/// The service that a host names for a client of `namespace`.
pub(super) fn service<'a>(model: &'a Model, namespace: &str, host: &str) -> Option<&'a Service> {
    let (namespace, name) = named(namespace, host)?;
    model.service(namespace, name)
}

/// Namespace and name that a host means for a client of `namespace`, whether there is such a service or
/// not; `None` where it can be no service's.
pub(super) fn named<'h>(namespace: &'h str, host: &'h str) -> Option<(&'h str, &'h str)> {
    let Some((name, rest)) = host.split_once('.') else {
        return Some((namespace, host));
    };
    let (namespace, domain) = rest.split_once('.').unwrap_or((rest, SERVICE_DOMAIN));
    let known = domain == SERVICE_DOMAIN
        || domain.strip_prefix(SERVICE_DOMAIN) == Some(CLUSTER_DOMAIN_SUFFIX);
    known.then_some((namespace, name))
}

/// Every spelling of a service port for a client of `namespace`: with the port, and without it where
/// it is 80. Short names only inside the service's own namespace.
pub(crate) fn spellings(service: &Service, port: &ServicePort, namespace: &str) -> Vec<String> {
    let name = &service.name;
    let mut hosts = vec![
        format!("{}.{}", name.name, name.namespace),
        format!("{}.{}.{SERVICE_DOMAIN}", name.name, name.namespace),
        format!(
            "{}.{}.{SERVICE_DOMAIN}{CLUSTER_DOMAIN_SUFFIX}",
            name.name, name.namespace
        ),
    ];
    if name.namespace == namespace {
        hosts.insert(0, name.name.clone());
    }
    let mut spellings = Vec::with_capacity(hosts.len() * 2);
    for host in hosts {
        spellings.push(format!("{host}:{}", port.port));
        if port.port == DEFAULT_PORT {
            spellings.push(host);
        }
    }
    spellings
}

fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}
