//! Shaking hands, by the TLS library, over any transport.
//!
//! The library only says what is to be done (its unbuffered API); what it reads from and writes into is
//! lent. Once hands are shaken it hands the secrets over, and [`Thin`] protects the records.
//!
//! Neither side has sent a byte of the application's before the other has proved who it is: the client
//! waits for the server's proof, and the server says nothing before the client's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ExtractedSecrets, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffers::InHand;
use super::record::{Opener, Sealer, Secrets};
use super::{Thin, broken};

/// Gives the secrets that follow on those in force (RFC 8446, section 7.2).
pub(super) trait NextSecrets: Send {
    /// For what is sent.
    fn sending(&mut self) -> Result<Secrets, Error>;

    /// For what comes.
    fn receiving(&mut self) -> Result<Secrets, Error>;
}

impl<D: Send> NextSecrets for KernelConnection<D> {
    fn sending(&mut self) -> Result<Secrets, Error> {
        self.update_tx_secret()
    }

    fn receiving(&mut self) -> Result<Secrets, Error> {
        self.update_rx_secret()
    }
}

/// As the client. `look` is shown what the handshake found out, before anything can be sent.
pub(in crate::identity) async fn connect<S, T, E>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: S,
    look: impl FnOnce(&CommonState) -> Result<T, E>,
) -> Result<(Thin<S>, T), E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: From<io::Error>,
{
    let tls = UnbufferedClientConnection::new(config, name).map_err(broken)?;
    shake(tls, io, look).await
}

/// As the server. `look` is shown what the handshake found out, before anything can be sent.
pub(in crate::identity) async fn accept<S, T, E>(
    config: Arc<ServerConfig>,
    io: S,
    look: impl FnOnce(&CommonState) -> Result<T, E>,
) -> Result<(Thin<S>, T), E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: From<io::Error>,
{
    let tls = UnbufferedServerConnection::new(config).map_err(broken)?;
    shake(tls, io, look).await
}

async fn shake<C, S, T, E>(
    tls: C,
    io: S,
    look: impl FnOnce(&CommonState) -> Result<T, E>,
) -> Result<(Thin<S>, T), E>
where
    C: Side,
    S: AsyncRead + AsyncWrite + Unpin,
    E: From<io::Error>,
{
    let mut shaking = Box::new(Shaking {
        tls,
        io,
        incoming: InHand::default(),
        outgoing: InHand::default(),
        early: BytesMut::new(),
        peer_has_ended: false,
    });
    std::future::poll_fn(|cx| shaking.poll(cx)).await?;
    let seen = look(shaking.tls.session())?;
    Ok((shaking.into_thin()?, seen))
}

/// One of the two who shake hands.
trait Side {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn session(&self) -> &CommonState;

    fn finish(self) -> Result<(ExtractedSecrets, Box<dyn NextSecrets>), Error>;
}

struct Shaking<C, S> {
    tls: C,
    io: S,
    /// Read and not yet looked at.
    incoming: InHand,
    /// To be written.
    outgoing: InHand,
    /// Of the application's, which came with the handshake's last bytes.
    early: BytesMut,
    peer_has_ended: bool,
}

impl<C: Side, S: AsyncRead + AsyncWrite + Unpin> Shaking<C, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Err(error) = self.advance() {
                let _ = self.outgoing.poll_write(&mut self.io, cx);
                return Poll::Ready(Err(error));
            }
            // The peer may be writing too, and read nothing until that is read: this is not waited for.
            let mut flushed = self.outgoing.poll_write(&mut self.io, cx)?;
            if flushed.is_ready() {
                flushed = Pin::new(&mut self.io).poll_flush(cx)?;
            }
            if !self.tls.session().is_handshaking() {
                return flushed.map(Ok);
            }
            if ready!(self.incoming.poll_read(&mut self.io, cx))? == 0 {
                let eof = "the peer left while shaking hands";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, eof)));
            }
        }
    }

    /// Lets the library go on until it wants something.
    fn advance(&mut self) -> io::Result<()> {
        loop {
            let UnbufferedStatus { discard, state } = self.tls.process(self.incoming.bytes_mut());
            let mut stops = false;
            match state {
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    self.outgoing.add(|room| message.encode(room))?;
                }
                // It is in hand, and leaves before all that follows.
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        self.early
                            .extend_from_slice(record.map_err(broken)?.payload);
                    }
                    // What follows is opened without the library.
                    stops = true;
                }
                Ok(ConnectionState::PeerClosed) => self.peer_has_ended = true,
                // Open, or closed, or it goes on with the peer's next word.
                Ok(_) => stops = true,
                Err(error) => {
                    self.incoming = InHand::default();
                    self.alert();
                    return Err(broken(error));
                }
            }
            self.incoming.discard(discard);
            if stops {
                return Ok(());
            }
        }
    }

    /// Takes the alert in hand that says why hands are not shaken. What broke it is not shown to the
    /// library again: it would be the same error, and the library says each once.
    fn alert(&mut self) {
        while self.tls.session().wants_write() {
            let encoded = match self.tls.process(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    self.outgoing.add(|room| message.encode(room))
                }
                _ => return,
            };
            if encoded.is_err() {
                return;
            }
        }
    }

    fn into_thin(self) -> io::Result<Thin<S>> {
        let (secrets, next) = self.tls.finish().map_err(broken)?;
        let sealer = Sealer::new(secrets.tx).map_err(broken)?;
        let opener = Opener::new(secrets.rx).map_err(broken)?;
        Ok(Thin::new(
            self.io,
            sealer,
            opener,
            next,
            self.incoming,
            self.early.freeze(),
            self.peer_has_ended,
        ))
    }
}

impl Side for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn session(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Box<dyn NextSecrets>), Error> {
        let (secrets, next) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(next)))
    }
}

impl Side for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn session(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Box<dyn NextSecrets>), Error> {
        let (secrets, next) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(next)))
    }
}
