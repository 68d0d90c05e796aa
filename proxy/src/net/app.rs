//! Connections to the own application, from a second address where source ports run out.
//!
//! All connections to one port of the application have one source and one destination address, and
//! so at most as many as there are ephemeral ports, about 28,000. Where the sidecar ends them first,
//! as it does when clients do, each keeps its port for a minute more (TIME_WAIT): 470 new ones per
//! second are the end. From a loopback address the kernel takes such a port again after a second.
//!
//! * The application sees the workload's own address as long as there are ports, and again
//!   [`SPARE_FOR`] after they were missing; 127.0.0.6 or `::1` meanwhile.
//! * The spare address takes no ports from anybody: its port is chosen by the kernel when the
//!   destination is known. A plain `bind` would keep the port from every other socket that connects.
//! * Finding out that there is none costs the kernel a look at every port, so it is remembered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::shortage::Shortage;
use super::socket::Dialer;

/// How long the spare address is used before the own one is tried again.
const SPARE_FOR: Duration = Duration::from_secs(5);
/// Other addresses to dial the own application from.
const SPARE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
const SPARE_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Dials the own application. Cheap to clone.
#[derive(Clone)]
pub struct AppDialer {
    dialer: Dialer,
    /// Counts connections from the spare address.
    spare_used: Counter,
    exhausted: Arc<Mutex<Exhausted>>,
}

/// Which address had no source ports left, and until when that is believed. The last one only: an
/// application with several busy ports is tried for each in turn.
#[derive(Debug, Default)]
struct Exhausted(Option<(SocketAddr, Instant)>);

impl AppDialer {
    /// `spare_used` counts connections from the spare address.
    pub fn new(dialer: Dialer, spare_used: Counter) -> Self {
        Self {
            dialer,
            spare_used,
            exhausted: Arc::default(),
        }
    }

    /// Connects. The caller bounds the time.
    ///
    /// # Errors
    /// What the kernel says of the own address, or of the spare one where both were tried.
    pub async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let Some(spare) = spare(address) else {
            return self.dialer.dial(address).await;
        };
        if !self.exhausted.lock().holds(address, Instant::now()) {
            match self.dialer.dial(address).await {
                Err(error) if Shortage::behind(&error) == Some(Shortage::Ports) => {}
                result => return result,
            }
            let is_new = self.exhausted.lock().begin(address, Instant::now());
            if is_new {
                tracing::warn!(
                    %address,
                    from = %spare,
                    "source ports towards the application have run out: connections come from \
                     another address for now"
                );
            }
        }
        let connection = self.dialer.dial_from(address, spare).await?;
        self.spare_used.increment(1);
        Ok(connection)
    }
}

impl Exhausted {
    /// Whether `address` has no ports as far as is known.
    fn holds(&self, address: SocketAddr, now: Instant) -> bool {
        self.0
            .is_some_and(|(known, until)| known == address && now < until)
    }

    /// There are none now. Whether that is news since the last time there were.
    fn begin(&mut self, address: SocketAddr, now: Instant) -> bool {
        let until = now + SPARE_FOR;
        let before = self.0.replace((address, until));
        // Just after the end of the time it is the same shortage.
        before.is_none_or(|(known, ended)| known != address || now > ended + SPARE_FOR)
    }
}

/// The other address to dial `address` from; none where it is that one itself.
fn spare(address: SocketAddr) -> Option<IpAddr> {
    let spare = if address.is_ipv4() {
        SPARE_V4
    } else {
        SPARE_V6
    };
    (address.ip() != spare).then_some(spare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_remembered_for_its_address_and_a_while() {
        let one: SocketAddr = "10.0.0.7:8080".parse().unwrap();
        let other = "10.0.0.7:9090".parse().unwrap();
        let begin = Instant::now();
        let mut exhausted = Exhausted::default();
        assert!(!exhausted.holds(one, begin));
        assert!(exhausted.begin(one, begin));
        assert!(exhausted.holds(one, begin + SPARE_FOR / 2));
        assert!(!exhausted.holds(other, begin + SPARE_FOR / 2));
        let after = begin + SPARE_FOR;
        assert!(!exhausted.holds(one, after));
        assert!(!exhausted.begin(one, after), "the same shortage goes on");
        assert!(exhausted.begin(one, after + SPARE_FOR * 3), "a new one");
        assert!(exhausted.begin(other, after + SPARE_FOR * 3));
        assert!(!exhausted.holds(one, after + SPARE_FOR * 3));
    }

    #[test]
    fn nothing_is_dialled_from_itself() {
        let spare = |address: &str| spare(address.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(spare("10.0.0.7:80").as_deref(), Some("127.0.0.6"));
        assert_eq!(spare("127.0.0.1:80").as_deref(), Some("127.0.0.6"));
        assert_eq!(spare("[fd42::7]:80").as_deref(), Some("::1"));
        assert_eq!(spare("[::1]:80"), None);
        assert_eq!(spare("127.0.0.6:80"), None);
    }

    #[tokio::test]
    async fn what_is_exhausted_is_dialled_from_the_spare_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = AppDialer::new(Dialer::default(), Counter::noop());
        let seen = async |dialer: &AppDialer| {
            let (ours, accepted) = tokio::join!(dialer.dial(address), listener.accept());
            ours.unwrap();
            accepted.unwrap().1.ip().to_string()
        };
        assert_eq!(seen(&dialer).await, "127.0.0.1");
        dialer.exhausted.lock().begin(address, Instant::now());
        assert_eq!(seen(&dialer).await, "127.0.0.6");
    }
}
