//! Connections that have been used once and are held open.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpStream;

use super::{SIZES, Shape, http1, tcp};
use crate::bench::protocol::Protocol;

/// Closed when this is dropped.
#[derive(Default)]
pub(in crate::bench) struct Held(Vec<TcpStream>);

impl Held {
    /// Opens `count` more, one after the other: what many at a time cost is another question.
    pub(in crate::bench) async fn open(
        to: SocketAddr,
        protocol: Protocol,
        count: usize,
    ) -> anyhow::Result<Self> {
        let mut held = Self(Vec::with_capacity(count));
        for number in 0..count {
            let connection = async {
                if protocol == Protocol::Tcp {
                    return tcp::hold(to).await;
                }
                let shape = Shape {
                    protocol,
                    connections: 1,
                    size: SIZES[0],
                    rate: None,
                };
                let mut client = http1::Client::new(to, shape).await?;
                client.exchange().await?;
                Ok(client.into_stream())
            };
            let connection = connection.await;
            held.0
                .push(connection.with_context(|| format!("connection {number} that is held"))?);
        }
        Ok(held)
    }

    /// Whether every one is still open. An error if one has ended, or if somebody said something.
    pub(in crate::bench) fn all_open(&self) -> anyhow::Result<()> {
        for stream in &self.0 {
            match stream.try_read(&mut [0; 1]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => anyhow::bail!("a connection that was held is not idle: {other:?}"),
            }
        }
        Ok(())
    }
}
