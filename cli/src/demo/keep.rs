//! `--keep`: the mesh stays, and can be called from outside its network namespaces.
//!
//! This process is in the network namespace that it was started in, so it listens on 127.0.0.1 there
//! and hands connections on from inside of the web's pod, where they are intercepted as the
//! application's own are. Nobody needs privileges to call it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::TcpListener;
use weft_proto::names::ports;
use weft_sandbox::Mesh;
use weft_sandbox::pod::Forward;

use super::world::{PORT, WEB};

/// Ports that are wanted; where one is taken, any other does.
const CHECKOUT_PORT: u16 = 18_080;
const INVENTORY_PORT: u16 = 18_081;
const ADMIN_PORT: u16 = ports::ADMIN;

/// What can be called from outside. Ends when dropped.
#[derive(Debug)]
pub(super) struct Doors {
    checkout: SocketAddr,
    inventory: SocketAddr,
    admin: SocketAddr,
    _forwards: [Forward; 3],
}

impl Doors {
    /// Opens them.
    pub(super) async fn open(mesh: &Mesh) -> anyhow::Result<Self> {
        let web = mesh.pod(WEB);
        let own_admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN));
        let checkout = listen(CHECKOUT_PORT).await?;
        let inventory = listen(INVENTORY_PORT).await?;
        let admin = listen(ADMIN_PORT).await?;
        Ok(Self {
            checkout: checkout.local_addr()?,
            inventory: inventory.local_addr()?,
            admin: admin.local_addr()?,
            _forwards: [
                web.forward(checkout, mesh.addr("checkout", PORT)),
                web.forward(inventory, mesh.addr("inventory", PORT)),
                web.forward(admin, own_admin),
            ],
        })
    }

    /// How to use them, line by line.
    pub(super) fn help(&self, mesh: &Mesh) -> Vec<String> {
        let Self {
            checkout,
            inventory,
            admin,
            ..
        } = self;
        let config = mesh.config_dir();
        [
            "The mesh runs on, with traffic, until Ctrl-C. From another terminal, without root:"
                .to_owned(),
            String::new(),
            format!("  curl -i http://{checkout}/hello                     # web-1 calls checkout"),
            format!(
                "  curl -i 'http://{checkout}/report?delay_ms=3000'    # … which meets its deadline"
            ),
            format!(
                "  curl -i http://{inventory}/hello                     # web-1 calls inventory"
            ),
            format!("  curl -s http://{admin}/metrics                   # web-1's sidecar"),
            format!("  curl -s http://{admin}/circuit-breakers"),
            format!("  curl -s http://{admin}/config"),
            String::new(),
            "Policies are files; save one and traffic follows:".to_owned(),
            String::new(),
            format!("  ls {}", config.display()),
        ]
        .into()
    }
}

async fn listen(wanted: u16) -> anyhow::Result<TcpListener> {
    if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).await {
        return Ok(listener);
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("listening on 127.0.0.1")
}
