//! `tcpSocket` probes.
//!
//! Behind the redirect a kubelet's connection always succeeds: the sidecar accepts it, whether the
//! application listens or not. Such a probe becomes an `httpGet` of the sidecar's `/probe/PORT`, which
//! dials the application. Probes by HTTP and gRPC stay: the control plane tells the sidecar of them.

use serde_json::{Value, json};
use weft_proto::names::ports;

use super::{Operation, add};
use crate::annotations::Config;
use crate::json;

/// Every probe that a container may have.
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// The probes of all containers that run as long as the pod.
pub(super) fn rewrite(config: &Config, pod: &Value, warnings: &mut Vec<String>) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (place, container) in json::running(pod) {
        for probe in PROBES {
            let pointer = format!("/{probe}/tcpSocket");
            let Some(socket) = container.pointer(&pointer).filter(|it| it.is_object()) else {
                continue;
            };
            // Of another host than the pod: nothing comes in here.
            if json::text(socket, "/host").is_some_and(|host| !host.is_empty()) {
                continue;
            }
            let Some(port) = socket.get("port").and_then(|port| number(container, port)) else {
                warnings.push(format!(
                    "{probe} of container {} stays as it is: no TCP port is declared as its \
                     tcpSocket.port says",
                    json::name(container)
                ));
                continue;
            };
            if config.skip_inbound_ports.contains(&port) {
                continue;
            }
            operations.push(Operation::Remove {
                path: format!("{place}{pointer}"),
            });
            operations.push(add(
                format!("{place}/{probe}/httpGet"),
                json!({"path": format!("/probe/{port}"), "port": ports::ADMIN}),
            ));
        }
    }
    operations
}

/// A port as a probe says it: by number, or by the name of one that the container declares.
fn number(container: &Value, port: &Value) -> Option<u16> {
    if let Some(number) = port.as_u64() {
        return u16::try_from(number).ok().filter(|number| *number > 0);
    }
    let name = port.as_str()?;
    let declared = json::list(container, "/ports").iter();
    let mut named = declared
        .filter(|declared| json::is_tcp(declared) && json::name(declared) == name)
        .filter_map(json::port_number);
    named.next()
}
