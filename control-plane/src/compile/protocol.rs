//! What a port's words say about its bytes.

use weft_proto::discovery::Protocol;

use crate::index::ServicePort;

/// The protocol of a service port: by `appProtocol`, else by the port's name up to its first dash.
pub(super) fn of_port(port: &ServicePort) -> Protocol {
    if !port.app_protocol.is_empty() {
        return of_app_protocol(&port.app_protocol);
    }
    let prefix = port.name.split('-').next().unwrap_or_default();
    of_word(prefix)
}

/// What `appProtocol` says. Only here plain HTTP can be named so that nothing is found out: ports are
/// named `http` that speak HTTP/2 as well.
pub(super) fn of_app_protocol(word: &str) -> Protocol {
    match word.to_ascii_lowercase().as_str() {
        "http1" => Protocol::Http1,
        "kubernetes.io/h2c" => Protocol::Http2,
        word => of_word(word),
    }
}

/// The one protocol that all of `words` agree upon; those that say nothing do not count.
pub(super) fn agreed(words: impl Iterator<Item = Protocol>) -> Protocol {
    let mut agreed = Protocol::Unspecified;
    for word in words.filter(|word| *word != Protocol::Unspecified) {
        if agreed != Protocol::Unspecified && agreed != word {
            return Protocol::Unspecified;
        }
        agreed = word;
    }
    agreed
}

fn of_word(word: &str) -> Protocol {
    match word {
        "grpc" | "http2" | "h2c" => Protocol::Http2,
        "tcp" | "tls" | "https" | "redis" | "postgres" | "postgresql" | "mysql" | "mongo"
        | "mongodb" | "kafka" | "amqp" | "nats" | "mqtt" | "ldap" | "smtp" => Protocol::Opaque,
        _ => Protocol::Unspecified,
    }
}
