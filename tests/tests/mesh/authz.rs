//! Authorization without a way around it: paths that servers read in different ways, requests hidden in
//! other protocols, what is open when it is revoked, and what holds where no policy speaks.
//!
//! The callers that try are raw clients with real certificates of the mesh. What reached the
//! application decides, by its own count, and a judge of paths that knows nothing of how Weft decides
//! ([`weft_tests::readings`]).

mod defaults;
mod paths;
mod protocols;
mod revoked;

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Pod, Service, Workload};
use weft_tests::tls::{self, Credentials, End};

use crate::Suite;
use crate::common::{APP_PORT, PORT, id, mesh, policy};

pub(crate) fn register(suite: &mut Suite) {
    suite.add("authz::path_tricks", paths::tricks);
    suite.add("authz::protocol_tricks", protocols::tricks);
    suite.add("authz::requests_behind_an_upgrade", protocols::upgrades);
    suite.add("authz::revoking_ends_http1", revoked::http1);
    suite.add("authz::revoking_ends_http2", revoked::http2);
    suite.add("authz::revoking_ends_upgrades", revoked::upgrades);
    suite.add("authz::revoking_ends_bytes", revoked::bytes);
    suite.add("authz::going_strict_ends_plaintext", revoked::plaintext);
    suite.add("authz::the_meshs_default", defaults::of_mesh);
    suite.add(
        "authz::a_namespace_denies_and_services_allow",
        defaults::of_namespace,
    );
}

/// Bytes only.
const TCP_PORT: u16 = 9000;
/// An application of the test's own.
const RAW_PORT: u16 = 9100;

/// A service `api` with an HTTP application, one of bytes and a port of the test's own, and its policy.
fn api(name: &str, stanzas: &str) -> Builder {
    mesh(name)
        .workload(Workload::new("client").service_account("client"))
        .workload(Workload::new("friend").service_account("friend"))
        .workload(
            Workload::new("api-1")
                .port(APP_PORT, AppSpec::http())
                .port(TCP_PORT, AppSpec::tcp())
                .port(RAW_PORT, AppSpec::none()),
        )
        .service(
            Service::new("api")
                .port(PORT, APP_PORT)
                .port_name("web")
                .port(TCP_PORT, TCP_PORT)
                .port_name("tcp-echo")
                .app_protocol("tcp")
                .port(RAW_PORT, RAW_PORT)
                .port_name("raw")
                .app_protocol("http1")
                .endpoints(["api-1"]),
        )
        .named_policy("api", &policy("api", "api", stanzas))
}

/// Allows these service accounts, with `more` of each entry.
fn allow(accounts: &[&str], more: &str) -> String {
    let principals = accounts
        .iter()
        .map(|name| format!("{{serviceAccount: {{name: {name}}}}}"));
    let principals = principals.collect::<Vec<_>>().join(", ");
    format!("authorization: {{allow: [{{principals: [{principals}]{more}}}]}}")
}

/// A port of the application, which leads to its sidecar's inbound listener.
fn app_of(mesh: &Mesh, port: u16) -> SocketAddr {
    SocketAddr::new(mesh.pod("api-1").v4().into(), port)
}

/// Mesh TLS past every sidecar of the client's side, as a service account.
async fn connect_as(
    mesh: &Mesh,
    pod: &Pod,
    account: &str,
    port: u16,
    alpn: &[u8],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let credentials = Credentials::good(&mesh.state_dir(), &id(account))?;
    let stream = pod.connect(app_of(mesh, port)).await?;
    tls::connect(stream, Some(&credentials), &[alpn]).await
}

/// The same, with bytes sent, and all that comes back.
async fn exchange(
    mesh: &Mesh,
    pod: &Pod,
    port: u16,
    alpn: &[u8],
    bytes: &[u8],
) -> anyhow::Result<End> {
    let mut stream = connect_as(mesh, pod, "client", port, alpn).await?;
    // Fails where the sidecar has closed already, which the read shows too.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    Ok(tls::read_to_end(&mut stream).await)
}
