//! How a workload's own port is served.

use weft_proto::discovery as wire;

use super::fields::{each, known, method, missing, path, protocol, refuse};
use super::{Decoded, access_log, rate_limit, service_ref};
use crate::policy::{AllowEntry, AllowList, InboundPolicy, MtlsMode, Principal, Probe};

/// How the own workload is served on a port.
pub(super) fn decode(message: &wire::Inbound) -> Decoded<InboundPolicy> {
    let mtls = match known("mtls", message.mtls)? {
        wire::MtlsMode::Unspecified => return Err(missing("mtls")),
        wire::MtlsMode::Strict => MtlsMode::Strict,
        wire::MtlsMode::Permissive => MtlsMode::Permissive,
        wire::MtlsMode::Disabled => MtlsMode::Disabled,
    };
    let lists = message
        .authorization
        .as_ref()
        .map_or(&[][..], |it| &it.lists);
    if message.authorization.is_some() && lists.is_empty() {
        // "All of no lists allow" would let everybody in.
        return Err(refuse("authorization", "no list"));
    }
    Ok(InboundPolicy {
        mtls,
        protocol: protocol(message.protocol)?,
        authorization: each("authorization.lists", lists, allow_list)?,
        rate_limits: each("rate_limits", &message.rate_limits, rate_limit::decode)?,
        ruled_rate_limits: each(
            "ruled_rate_limits",
            &message.ruled_rate_limits,
            rate_limit::ruled,
        )?,
        probes: each("probes", &message.probes, |probe| {
            Ok(Probe {
                path: path(&probe.path)?,
                method: method(&probe.method)?,
            })
        })?,
        terminating: message.terminating,
        application_ended: message.application_ended,
        access_logs: each("access_logs", &message.access_logs, access_log::inbound)?,
        services: each("services", &message.services, service_ref)?,
    })
}

fn allow_list(message: &wire::AllowList) -> Decoded<AllowList> {
    Ok(AllowList {
        entries: each("entries", &message.entries, |entry| {
            if entry.principals.is_empty() {
                return Err(missing("principals"));
            }
            Ok(AllowEntry {
                principals: each("principals", &entry.principals, |text| principal(text))?,
                methods: each("methods", &entry.methods, |text| method(text))?,
                paths: each("paths", &entry.paths, |text| path(text))?,
            })
        })?,
        audit: message.audit,
    })
}

fn principal(text: &str) -> Decoded<Principal> {
    let (stem, prefix) = match text.strip_suffix('*') {
        Some(stem) => (stem, true),
        None => (text, false),
    };
    if stem.contains('*') || text.is_empty() {
        return Err(refuse("", "empty, or an asterisk before the end"));
    }
    if prefix && !stem.ends_with('/') {
        // A namespace's name may begin with another's.
        return Err(refuse("", "an asterisk that is no whole segment"));
    }
    Ok(if prefix {
        Principal::Prefix(stem.into())
    } else {
        Principal::Exact(stem.into())
    })
}
