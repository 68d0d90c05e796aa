//! What client and server speak, and at which ports.

/// What goes over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, known beforehand.
    Http2,
    /// gRPC, over the same server as [`Self::Http2`].
    Grpc,
    /// Bytes.
    Tcp,
}

impl Protocol {
    /// One of every port.
    pub(super) const PORTS: [Self; 3] = [Self::Http1, Self::Http2, Self::Tcp];

    /// Where the server listens.
    pub(super) fn app_port(self) -> u16 {
        match self {
            Self::Http1 => 8080,
            Self::Http2 | Self::Grpc => 8081,
            Self::Tcp => 8082,
        }
    }

    /// Where its service is.
    pub(super) fn service_port(self) -> u16 {
        match self {
            Self::Http1 => 80,
            Self::Http2 | Self::Grpc => 81,
            Self::Tcp => 82,
        }
    }

    /// What a service calls its port.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 | Self::Grpc => "http2",
            Self::Tcp => "tcp",
        }
    }

    /// As a service declares it: `appProtocol`.
    pub(super) fn declared(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 | Self::Grpc => "kubernetes.io/h2c",
            Self::Tcp => "tcp",
        }
    }
}
