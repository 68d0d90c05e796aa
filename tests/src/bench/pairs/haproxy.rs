//! HAProxy, as near to a mesh's sidecar as it comes: redirected connections, mutual TLS 1.3 with
//! certificates of the mesh's authority required at either end, retries, timeouts, reuse of connections.
//!
//! It is no mesh: it takes *every* certificate of the authority, for it knows no SPIFFE ids; it counts, but
//! not by request and workload; nothing is ejected. Its two modes need a listener each, so the redirect
//! tells ports apart. It cannot mark what it dials, so only the ports of the service are redirected.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use weft_proxy::interception::{Action, Chain, Family, Hook, Match, Rule, Ruleset, Table};
use weft_sandbox::process::Program;

use super::foreign::{Setup, Sidecar};
use super::identity::{Identities, Identity};
use crate::bench::protocol::Protocol;

/// Its listener for a port is this many above it, so that the server's side and the client's differ.
const LISTENERS: u16 = 15_000;
/// One thread, and connections enough for every load within the descriptors that a user has.
/// TLS as the others have it.
const GENERAL: &str = "\
global
  nbthread 1
  maxconn 8000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  timeout http-request 10s
  timeout http-keep-alive 60s
  timeout queue 5s
  http-reuse always
";

/// Both sidecars of a pair whose server is at `server`.
pub(super) fn setup(
    program: &Path,
    dir: &Path,
    identities: &Identities,
    server: Ipv4Addr,
) -> anyhow::Result<Setup> {
    let client = identities.issue("haproxy-client")?;
    let other = identities.issue("haproxy-server")?;
    let roots = identities.roots.display();
    let verified = |own: &Identity| {
        let own = own.both.display();
        format!("ssl crt {own} ca-file {roots} verify required")
    };
    let [mut out, mut inward] = [GENERAL; 2].map(str::to_owned);
    for protocol in Protocol::PORTS {
        let (name, app) = (protocol.name(), protocol.app_port());
        let (mode, http2, alpn) = match protocol {
            Protocol::Http1 => ("http", "", " alpn http/1.1"),
            Protocol::Http2 | Protocol::Grpc => ("http", " proto h2", " alpn h2"),
            Protocol::Tcp => ("tcp", "", ""),
        };
        let service = LISTENERS + protocol.service_port();
        write!(
            out,
            "listen {name}\n  mode {mode}\n  bind 127.0.0.1:{service}{http2}\n  retries 2\n"
        )?;
        if mode == "http" {
            let attempts = "  retry-on conn-failure empty-response 503\n  timeout server 5s\n";
            out.push_str(attempts);
        }
        let tls = verified(&client);
        writeln!(out, "  server other {server}:{app} {tls}{alpn}")?;
        let (listener, tls) = (LISTENERS + app, verified(&other));
        write!(
            inward,
            "listen {name}\n  mode {mode}\n  bind 0.0.0.0:{listener} {tls}{alpn}\n  \
             server app {server}:{app}{http2}\n"
        )?;
    }
    let mut sidecars = Vec::new();
    let sides = [
        ("client", out, Hook::Output),
        ("server", inward, Hook::Prerouting),
    ];
    for (role, config, hook) in sides {
        let file = dir.join(format!("haproxy-{role}.cfg"));
        fs::write(&file, config)?;
        sidecars.push(Sidecar {
            program: Program::new(program).args(["-db", "-f"]).arg(file),
            rules: redirect(hook),
        });
    }
    Ok(Setup {
        sidecars,
        client,
        server: other,
        impostor: None,
    })
}

/// Connections that the client makes to the service, or others to the server.
fn redirect(hook: Hook) -> Ruleset {
    // The server's own sidecar reaches the server over loopback.
    let local = Rule::new(Match::FromLoopback, Action::Return);
    let mut rules = match hook {
        Hook::Output => Vec::new(),
        Hook::Prerouting => vec![local],
    };
    rules.extend(Protocol::PORTS.map(|protocol| {
        let port = match hook {
            Hook::Output => protocol.service_port(),
            Hook::Prerouting => protocol.app_port(),
        };
        Rule {
            matches: vec![Match::TcpOpening, Match::DestinationPort(port)],
            action: Action::Redirect(LISTENERS + port),
        }
    }));
    let table = |family| Table {
        family,
        chains: vec![Chain {
            hook,
            rules: rules.clone(),
        }],
    };
    Ruleset {
        tables: [Family::V4, Family::V6].map(table).into(),
    }
}
