//! How a workload's own port is served.

use weft_proto::discovery::{Authorization, Inbound, Probe};

use super::{Client, access_log, protocol, rate_limit, wire};
use crate::index::{Model, Service, ServicePort};

/// The port of the caller's own workload; `None` for callers that are no workload of the mesh.
pub(super) fn compile(model: &Model, client: &Client, port: u16) -> Option<Inbound> {
    let namespace = &client.namespace;
    let workload = model.workload(namespace, &client.workload)?;
    if workload.service_account != client.service_account {
        return None;
    }
    let services: Vec<(&Service, &ServicePort)> =
        model.backed_by_workload(workload, port).collect();
    let declared = workload.port(port);

    let spoken = protocol::agreed(services.iter().map(|(_, port)| protocol::of_port(port)));
    let protocol = match declared {
        Some(declared) if services.is_empty() => protocol::of_app_protocol(&declared.protocol),
        _ => spoken,
    };
    let probes = declared.map(|declared| declared.probes.as_slice());
    let mut refs: Vec<_> = services
        .iter()
        .map(|(service, port)| wire::service_ref(&service.name, port.port))
        .collect();
    refs.dedup();
    let limits = rate_limit::compile(model, namespace, &services);

    Some(Inbound {
        mtls: wire::mtls(model.inbound_mtls(workload, port)).into(),
        protocol: protocol.into(),
        authorization: authorization(model, namespace, &services),
        probes: probes
            .unwrap_or_default()
            .iter()
            .map(|probe| Probe {
                path: probe.path.clone(),
                method: probe.method.clone(),
            })
            .collect(),
        terminating: workload.draining,
        application_ended: workload.ended,
        services: refs,
        rate_limits: limits.plain,
        ruled_rate_limits: limits.ruled,
        access_logs: access_log::inbound(model, namespace, &services),
    })
}

/// One list per service that has one, all of which must allow; else the namespace's, else the mesh's
/// default.
fn authorization(
    model: &Model,
    namespace: &str,
    services: &[(&Service, &ServicePort)],
) -> Option<Authorization> {
    let list = |policy: &crate::policy::Authorization| {
        wire::allow_list(policy, namespace, model.trust_domain())
    };
    let mut lists = Vec::new();
    for (service, port) in services {
        if let Some(policy) = model.own_policy(service, port).authorization {
            let list = list(&policy);
            if !lists.contains(&list) {
                lists.push(list);
            }
        }
    }
    if lists.is_empty() {
        match model.namespace_policy(namespace).authorization {
            Some(inherited) => lists.push(list(&inherited)),
            None => lists.push(list(&model.default_authorization()?)),
        }
    }
    Some(Authorization { lists })
}
