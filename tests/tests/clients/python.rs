//! gRPC and WebSockets of Python, clients and servers. What they do and check is in `tests/clients`; the
//! servers' own counts are compared with the sidecars'.

use anyhow::Context as _;
use serde_json::Value;
use weft_sandbox::AppSpec;

use crate::Suite;
use crate::common::{Cx, assert_requests, client_and_apps, run_script, serve};
use crate::programs::{Needs, script};

const GRPC: u16 = 50051;
const WEBSOCKETS: u16 = 8765;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("python::grpcio", Needs::modules(&["grpc"]), grpcio);
    let needs = Needs::modules(&["grpc"]);
    suite.add(
        "python::grpcio_connections_of_short_life",
        needs,
        short_lives,
    );
    suite.add(
        "python::websockets",
        Needs::modules(&["websockets"]),
        websockets,
    );
}

/// Calls of every kind, metadata both ways, statuses with trailers, deadlines and cancellation that reach
/// the server, messages of 3 MB, many calls at once.
async fn grpcio(cx: Cx) -> anyhow::Result<()> {
    converse(&cx, "grpc_server.py", &[], "grpc_client.py", GRPC).await
}

/// A server that ends each connection when it is a fifth of a second old, as servers do to balance loads:
/// no call fails, short or long, and the server sees each once.
async fn short_lives(cx: Cx) -> anyhow::Result<()> {
    converse(&cx, "grpc_server.py", &["200"], "grpc_load.py", GRPC).await
}

/// Echoes of text and bytes, messages of 10 MB, fragments, pings both ways, codes of both sides' closing,
/// subprotocols, compression, a connection that is idle, a refused handshake.
async fn websockets(cx: Cx) -> anyhow::Result<()> {
    converse(&cx, "ws_server.py", &[], "ws_client.py", WEBSOCKETS).await
}

/// The client prints how many requests the server has counted.
async fn converse(
    cx: &Cx,
    server: &str,
    more: &[&str],
    client: &str,
    port: u16,
) -> anyhow::Result<()> {
    let name = server.split('_').next().unwrap_or(server);
    cx.on(
        client_and_apps(name, [(port, AppSpec::none())]),
        async |mesh| {
            let mut command = script(server, mesh.dir());
            command.arg(port.to_string()).args(more);
            let _server = serve(mesh, name, command, port).await?;
            let said = run_script(cx, mesh, client, port).await?;
            let said: Value = serde_json::from_str(said.trim()).context(said.clone())?;
            cx.measured(&said);
            let seen = said["requests"].as_u64().context("no count")?;
            assert_requests(mesh, seen).await
        },
    )
    .await
}
