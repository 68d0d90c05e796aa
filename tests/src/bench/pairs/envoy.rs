//! Envoy, set up as a mesh would: one listener for each direction that asks for the original
//! destination, mutual TLS 1.3 with the SPIFFE id of the other side checked at either end, on the way out
//! a route with timeouts, retries and outlier detection, on the way in RBAC on the client's id. Metrics are
//! on, the access log is off. HTTP/1.1 stays that between the sidecars, and HTTP/2 stays HTTP/2.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value as Json, json};
use weft_proto::names::{PROXY_MARK, ports};
use weft_proxy::interception::{self, InterceptionPlan};
use weft_sandbox::process::Program;

use super::foreign::{Setup, Sidecar};
use super::identity::{Identities, Identity};
use crate::bench::protocol::Protocol;

/// Its own web interface, within the pod.
const ADMIN: u16 = 15000;
/// A port of the service behind which nobody is expected.
const IMPOSTOR: u16 = 83;
/// More than any load has, so that no limit is met.
const MANY: u32 = 100_000;
const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Both sidecars of a pair whose server is at `server`.
pub(super) fn setup(
    program: &Path,
    dir: &Path,
    identities: &Identities,
    server: Ipv4Addr,
) -> anyhow::Result<Setup> {
    let [outbound, inbound] = ["envoy-client", "envoy-server"].map(|it| identities.issue(it));
    let (outbound, inbound) = (outbound?, inbound?);
    let nobody = identities.issue("envoy-nobody")?;
    let roots = identities.roots.to_string_lossy();
    let configs = [
        (
            "client",
            client(&roots, &outbound, [&inbound, &nobody], server),
        ),
        ("server", inbound_side(&roots, &outbound, &inbound, server)),
    ];
    let mut sidecars = Vec::new();
    for (role, config) in configs {
        let file = dir.join(format!("envoy-{role}.json"));
        fs::write(&file, format!("{config:#}"))?;
        sidecars.push(Sidecar {
            program: Program::new(program)
                .arg("-c")
                .arg(file)
                .args(["--concurrency", "1", "--disable-hot-restart"])
                .args(["--log-level", "warning"]),
            rules: interception::rules(&InterceptionPlan::by_mark(PROXY_MARK)),
        });
    }
    Ok(Setup {
        sidecars,
        client: outbound,
        server: inbound,
        impostor: Some(IMPOSTOR),
    })
}

fn client(roots: &str, own: &Identity, [other, nobody]: [&Identity; 2], server: Ipv4Addr) -> Json {
    let mut chains = Protocol::PORTS
        .map(|protocol| {
            let filters = match protocol {
                Protocol::Tcp => vec![tcp_proxy()],
                _ => vec![http(protocol, protocol.name(), &[], &policy())],
            };
            chain(protocol.service_port(), protocol.name(), &filters, None)
        })
        .to_vec();
    let mut clusters = Protocol::PORTS
        .map(|protocol| {
            let mut cluster = cluster(protocol, server);
            let context = tls(roots, own, Some(other), protocol);
            cluster["transport_socket"] = transport("UpstreamTlsContext", context);
            cluster["outlier_detection"] = json!({
                "consecutive_5xx": 5, "interval": "10s", "base_ejection_time": "30s",
                "max_ejection_percent": 100,
            });
            // How the redirect knows it. 1 and 36 are SOL_SOCKET and SO_MARK.
            cluster["upstream_bind_config"] = json!({"socket_options": [
                {"level": 1, "name": 36, "int_value": PROXY_MARK, "state": "STATE_PREBIND"},
            ]});
            cluster
        })
        .to_vec();
    // The same server once more, as somebody that it is not.
    let mut cluster = clusters[0].clone();
    let name = "impostor";
    (cluster["name"], cluster["load_assignment"]["cluster_name"]) = (json!(name), json!(name));
    let context = tls(roots, own, Some(nobody), Protocol::Http1);
    cluster["transport_socket"] = transport("UpstreamTlsContext", context);
    clusters.push(cluster);
    let filters = vec![http(Protocol::Http1, name, &[], &policy())];
    chains.push(chain(IMPOSTOR, name, &filters, None));
    let address = Ipv4Addr::LOCALHOST;
    let listener = listener("OUTBOUND", address, ports::OUTBOUND, &chains);
    bootstrap(&listener, &clusters)
}

fn inbound_side(roots: &str, other: &Identity, own: &Identity, server: Ipv4Addr) -> Json {
    let rules = json!({"action": "ALLOW", "policies": {"client": {
        "permissions": [{"any": true}],
        "principals": [{"authenticated": {"principal_name": {"exact": other.id.to_string()}}}],
    }}});
    let chains = Protocol::PORTS.map(|protocol| {
        let filters = if protocol == Protocol::Tcp {
            let config = json!({"stat_prefix": "inbound", "rules": rules});
            let rbac = extension("filters.network.rbac", "v3.RBAC", config);
            vec![rbac, tcp_proxy()]
        } else {
            let rbac = extension("filters.http.rbac", "v3.RBAC", json!({"rules": rules}));
            let route = json!({"timeout": "0s"});
            vec![http(protocol, protocol.name(), &[rbac], &route)]
        };
        let mut context = tls(roots, own, None, protocol);
        context["require_client_certificate"] = json!(true);
        let socket = transport("DownstreamTlsContext", context);
        chain(protocol.app_port(), protocol.name(), &filters, Some(socket))
    });
    let clusters = Protocol::PORTS.map(|protocol| cluster(protocol, server));
    let address = Ipv4Addr::UNSPECIFIED;
    let listener = listener("INBOUND", address, ports::INBOUND, &chains);
    bootstrap(&listener, &clusters)
}

fn bootstrap(listener: &Json, clusters: &[Json]) -> Json {
    json!({
        "node": {"id": "bench", "cluster": "bench"},
        "admin": {"address": address(Ipv4Addr::LOCALHOST, ADMIN)},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    })
}

fn listener(direction: &str, on: Ipv4Addr, port: u16, chains: &[Json]) -> Json {
    let original = "filters.listener.original_dst";
    json!({
        "name": direction.to_lowercase(),
        "traffic_direction": direction,
        "address": address(on, port),
        "listener_filters": [extension(original, "v3.OriginalDst", json!({}))],
        "filter_chains": chains,
    })
}

/// What happens to connections that were made to `port`.
fn chain(port: u16, name: &str, filters: &[Json], socket: Option<Json>) -> Json {
    let mut chain = json!({
        "name": name,
        "filter_chain_match": {"destination_port": port},
        "filters": filters,
    });
    if let Some(socket) = socket {
        chain["transport_socket"] = socket;
    }
    chain
}

/// Requests, to the cluster `name`, through `filters` and a route with further settings.
fn http(protocol: Protocol, name: &str, filters: &[Json], route: &Json) -> Json {
    let mut route = route.clone();
    route["cluster"] = json!(name);
    let mut filters = filters.to_vec();
    filters.push(extension("filters.http.router", "v3.Router", json!({})));
    let codec = match protocol {
        Protocol::Http1 => "HTTP1",
        _ => "HTTP2",
    };
    let config = json!({
        "stat_prefix": name,
        "codec_type": codec,
        "common_http_protocol_options": {"idle_timeout": "60s"},
        "route_config": {"name": name, "virtual_hosts": [{
            "name": name, "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": route}],
        }]},
        "http_filters": filters,
    });
    let network = "filters.network.http_connection_manager";
    extension(network, "v3.HttpConnectionManager", config)
}

/// What a route out of a mesh has.
fn policy() -> Json {
    json!({"timeout": "10s", "retry_policy": {
        "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
        "num_retries": 2, "per_try_timeout": "5s", "retriable_status_codes": [503],
    }})
}

fn tcp_proxy() -> Json {
    let name = Protocol::Tcp.name();
    let config = json!({"stat_prefix": name, "cluster": name, "idle_timeout": "3600s"});
    extension("filters.network.tcp_proxy", "v3.TcpProxy", config)
}

/// The server's port for `protocol`.
fn cluster(protocol: Protocol, server: Ipv4Addr) -> Json {
    let name = protocol.name();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY,
        }]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(server, protocol.app_port())}},
        ]}]},
    });
    let spoken = match protocol {
        Protocol::Http1 => "http_protocol_options",
        Protocol::Http2 | Protocol::Grpc => "http2_protocol_options",
        Protocol::Tcp => return cluster,
    };
    let kind = "upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.{kind}"),
            "common_http_protocol_options": {"idle_timeout": "60s"},
            "explicit_http_config": {spoken: {}},
        },
    });
    cluster
}

/// TLS of either side: `own` is shown, and of all that the authority certified only `other` is taken, or
/// everyone.
fn tls(roots: &str, own: &Identity, other: Option<&Identity>, protocol: Protocol) -> Json {
    let mut validation = json!({"trusted_ca": {"filename": roots}});
    if let Some(other) = other {
        validation["match_typed_subject_alt_names"] = json!([
            {"san_type": "URI", "matcher": {"exact": other.id.to_string()}},
        ]);
    }
    let alpn = match protocol {
        Protocol::Http1 => "http/1.1",
        Protocol::Http2 | Protocol::Grpc => "h2",
        Protocol::Tcp => "tcp",
    };
    json!({"common_tls_context": {
        "alpn_protocols": [alpn],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": {"filename": own.chain},
            "private_key": {"filename": own.key},
        }],
        "validation_context": validation,
    }})
}

fn transport(context: &str, config: Json) -> Json {
    let kind = format!("v3.{context}");
    extension("transport_sockets.tls", &kind, config)
}

/// An extension by its name and type within the same package.
fn extension(name: &str, kind: &str, mut config: Json) -> Json {
    config["@type"] = json!(format!("{TYPES}.{name}.{kind}"));
    json!({"name": format!("envoy.{name}"), "typed_config": config})
}

fn address(on: Ipv4Addr, port: u16) -> Json {
    json!({"socket_address": {"address": on.to_string(), "port_value": port}})
}
