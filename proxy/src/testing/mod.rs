//! Both ends of a sidecar's connections, on loopback, for the tests of either direction.

pub(crate) mod clients;
pub(crate) mod policies;
pub(crate) mod servers;

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::telemetry::{ProcessLabels, Telemetry};

/// Nothing in these tests takes as long; what does, hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Two ends of a TCP connection: the one that dialled, the one that was accepted.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it should come soon")
}

pub(crate) fn telemetry() -> std::sync::Arc<Telemetry> {
    Telemetry::new(ProcessLabels {
        workload: "test".into(),
        namespace: "shop".into(),
    })
}

/// The sum of a counter over all sets of labels that have each of `labels`.
pub(crate) fn count(telemetry: &Telemetry, family: &str, labels: &[(&str, &str)]) -> u64 {
    let text = telemetry.render();
    let fits = |line: &&str| {
        line.strip_prefix(family)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels
                .iter()
                .all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")))
    };
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    text.lines().filter(fits).map(value).sum::<f64>() as u64
}
