//! `--keep`: the mesh stays, and can be called from outside its network namespaces.
//!
//! This process is in the network namespace that it was started in, so it listens on 127.0.0.1 there
//! and hands connections on from inside of the callers' pods, where they are intercepted as the
//! applications' own are. Nobody needs privileges to call it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::TcpListener;
use weft_proto::names::ports;
use weft_sandbox::pod::Forward;

use super::story::Door;
use super::world::Set;

/// The first port that is wanted, for the first door; where one is taken, any other does.
const FIRST_PORT: u16 = 18_080;
const ADMIN_PORT: u16 = ports::ADMIN;

/// What can be called from outside. Ends when dropped.
#[derive(Debug)]
pub(super) struct Doors {
    /// Where a target can be called, and what to try there.
    open: Vec<(SocketAddr, &'static Door)>,
    admin: SocketAddr,
    _forwards: Vec<Forward>,
}

impl Doors {
    /// Opens them.
    pub(super) async fn open(set: &Set) -> anyhow::Result<Self> {
        let Set { mesh, story, .. } = set;
        let mut open = Vec::new();
        let mut forwards = Vec::new();
        for (door, port) in story.doors.iter().zip(FIRST_PORT..) {
            let target = &story.targets[door.target];
            let listener = listen(port).await?;
            open.push((listener.local_addr()?, door));
            let to = mesh.addr(target.service, target.port);
            forwards.push(mesh.pod(target.caller).forward(listener, to));
        }
        let listener = listen(ADMIN_PORT).await?;
        let admin = listener.local_addr()?;
        let own_admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN));
        forwards.push(mesh.pod(story.lead()).forward(listener, own_admin));
        Ok(Self {
            open,
            admin,
            _forwards: forwards,
        })
    }

    /// How to use them, line by line.
    pub(super) fn help(&self, set: &Set) -> Vec<String> {
        let Self { open, admin, .. } = self;
        let lead = set.story.lead();
        let mut lines = vec![
            "The mesh runs on, with traffic, until Ctrl-C. From another terminal, without root:"
                .to_owned(),
            String::new(),
        ];
        for (address, door) in open {
            for (path, words) in door.paths {
                let mut url = format!("http://{address}{path}");
                if url.contains(['?', '&']) {
                    url = format!("'{url}'");
                }
                lines.push(format!("  curl -i {url:<49}  # {words}"));
            }
        }
        lines.extend([
            format!("  curl -s http://{admin}/metrics                   # {lead}'s sidecar"),
            format!("  curl -s http://{admin}/circuit-breakers"),
            format!("  curl -s http://{admin}/config"),
            String::new(),
            "Policies are files; save one and traffic follows:".to_owned(),
            String::new(),
            format!("  ls {}", set.mesh.config_dir().display()),
        ]);
        lines
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
