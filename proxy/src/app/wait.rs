//! `weft-proxy await`: waits for the sidecar that runs beside it.
//!
//! As `postStart` hook of a sidecar that is the pod's first container, it keeps the kubelet from
//! starting the application's containers before their connections can be served. It asks the
//! sidecar's own `/ready` over loopback, with nothing but blocking sockets: it is one more process
//! in the sidecar's memory limit. Every answer is bounded in time and size, so that the timeout
//! holds whatever is at the port.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_proto::names::ports;

use super::settings;

/// How long to wait where nothing is said: as long as a kubelet gives a native sidecar.
const DEFAULT_TIMEOUT: &str = "120s";
/// Between the first two looks: a sidecar needs some ten milliseconds. Each pause is half as long again as
/// the one before, so that the application's start takes about a third longer at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause: where it takes seconds, looking costs nobody much.
const LAST_PAUSE: Duration = Duration::from_millis(100);
/// One step of one look: connecting, writing, reading.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of an answer. What is missing is named in a line per declared port.
const MAX_ANSWER: u64 = 256 << 10;

/// Waits until the sidecar is ready.
///
/// Exit codes: 0 it is; 1 it was not in time, and what is missing is on stderr; 64 bad arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct AwaitArgs {
    /// How long to wait at most, as 500ms, 30s or 2m, up to 1h
    #[arg(long, value_name = "TIME", default_value = DEFAULT_TIMEOUT, value_parser = time)]
    pub timeout: Duration,
    /// Port of the sidecar's admin endpoint
    #[arg(long, value_name = "PORT", default_value_t = ports::ADMIN,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
}

/// What one look found.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Ready,
    /// What is missing, as `/ready` names it.
    Missing(Vec<String>),
    /// Nobody answers, or what answers is no sidecar.
    Nobody(String),
}

/// Waits as `args` say, and says what is missing where that was not enough.
pub fn run(args: &AwaitArgs) -> ExitCode {
    match wait(args) {
        Look::Ready => ExitCode::SUCCESS,
        look => {
            let seconds = args.timeout.as_secs_f64();
            // A reader that has gone away changes nothing.
            let _ = writeln!(
                io::stderr(),
                "weft-proxy await: the sidecar is not ready after {seconds} s: {look}"
            );
            ExitCode::FAILURE
        }
    }
}

/// Looks until the sidecar is ready or the time is over; the last look.
fn wait(args: &AwaitArgs) -> Look {
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let look = look(args.port, STEP_LIMIT);
        if look == Look::Ready || begun.elapsed() + pause > args.timeout {
            return look;
        }
        sleep(pause);
        pause = after(pause);
    }
}

/// The pause after this one.
fn after(pause: Duration) -> Duration {
    (pause * 3 / 2).min(LAST_PAUSE)
}

/// A sidecar of a pod without IPv4 still has its loopback, unless it was told to listen at one
/// family only.
fn look(port: u16, limit: Duration) -> Look {
    let mut nobody = Vec::new();
    for ip in [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ] {
        let address = SocketAddr::new(ip, port);
        match ask(address, limit) {
            Ok(look) => return look,
            Err(error) => nobody.push(format!("{address}: {error}")),
        }
    }
    Look::Nobody(nobody.join("; "))
}

fn ask(address: SocketAddr, limit: Duration) -> io::Result<Look> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_write_timeout(Some(limit))?;
    // Of HTTP/1.0, so that the answer is neither chunked nor followed by another.
    stream.write_all(b"GET /ready HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        // A time per read alone would let one byte a second go on for ever.
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return read(&answer);
        }
        answer.extend_from_slice(&piece[..count]);
        if answer.len() as u64 > MAX_ANSWER {
            return Err(io::Error::other("the answer is too long"));
        }
    }
}

/// What a whole answer says.
fn read(answer: &[u8]) -> io::Result<Look> {
    let strange = || io::Error::other("the answer is no sidecar's");
    let text = str::from_utf8(answer).map_err(|_| strange())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(strange)?;
    let body: Value = serde_json::from_str(body).map_err(|_| strange())?;
    let status = head.split(' ').nth(1);
    if status == Some("200") && body["ready"] == true {
        return Ok(Look::Ready);
    }
    let missing = body["missing"].as_array().ok_or_else(strange)?.iter();
    let missing = missing.filter_map(Value::as_str).map(str::to_owned);
    Ok(Look::Missing(missing.collect()))
}

fn time(text: &str) -> Result<Duration, String> {
    settings::time(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "a time up to 1h, such as 500ms, 30s or 2m".to_owned())
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("it is ready"),
            Self::Missing(missing) => write!(f, "missing: {}", missing.join(", ")),
            Self::Nobody(why) => write!(f, "it does not answer ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Serves `answers` one after the other, the last one for ever; its port.
    fn serve(answers: Vec<&'static str>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback");
        let port = listener.local_addr().expect("bound").port();
        thread::spawn(move || {
            let last = *answers.last().expect("an answer");
            let all = answers.into_iter().chain(std::iter::repeat(last));
            for (answer, connection) in all.zip(listener.incoming()) {
                let Ok(mut connection) = connection else {
                    return;
                };
                let mut request = [0; 1_024];
                let _ = connection.read(&mut request);
                let _ = connection.write_all(answer.as_bytes());
            }
        });
        port
    }

    fn args(port: u16, timeout: Duration) -> AwaitArgs {
        AwaitArgs { timeout, port }
    }

    const READY: &str = "HTTP/1.0 200 OK\r\n\r\n{\"ready\":true,\"missing\":[]}";
    const NOT_YET: &str = "HTTP/1.0 503 Service Unavailable\r\ncontent-type: application/json\r\n\r\n\
                           {\"ready\":false,\"missing\":[\"certificate\",\"interception\"]}";

    #[test]
    fn it_waits_until_the_sidecar_is_ready() {
        let port = serve(vec!["", NOT_YET, NOT_YET, READY]);
        assert_eq!(wait(&args(port, Duration::from_secs(60))), Look::Ready);
    }

    #[test]
    fn looks_come_about_a_third_too_late_at_most_and_become_rare() {
        let mut pause = FIRST_PAUSE;
        let mut since = pause;
        let mut looks = 1;
        while pause < LAST_PAUSE {
            pause = after(pause);
            since += pause;
            looks += 1;
            assert!(
                3 * pause <= since + 2 * FIRST_PAUSE,
                "{pause:?} of {since:?}"
            );
        }
        assert!(looks < 12, "{looks} in {since:?}");
        assert_eq!(after(pause), LAST_PAUSE);
    }

    #[test]
    fn what_is_missing_at_the_end_is_named() {
        let port = serve(vec![NOT_YET]);
        let look = wait(&args(port, Duration::from_millis(300)));
        assert_eq!(look.to_string(), "missing: certificate, interception");
    }

    #[test]
    fn nobody_and_nonsense_are_not_ready() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback");
        let port = listener.local_addr().expect("bound").port();
        // Accepted by the kernel, and never answered.
        let silent = look(port, Duration::from_millis(50));
        assert!(matches!(silent, Look::Nobody(_)), "{silent}");
        drop(listener);
        let closed = wait(&args(port, Duration::from_millis(1)));
        assert!(
            closed.to_string().starts_with("it does not answer"),
            "{closed}"
        );

        let other = serve(vec!["HTTP/1.0 200 OK\r\n\r\nhello"]);
        let other = wait(&args(other, Duration::from_millis(1)));
        assert!(
            other.to_string().contains("the answer is no sidecar's"),
            "{other}"
        );
    }

    #[test]
    fn times_are_read() {
        assert_eq!(time(DEFAULT_TIMEOUT), Ok(Duration::from_secs(120)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0s", "5", "2h", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        /// Whatever is at the port, nothing but a sidecar's own word is readiness.
        #[test]
        fn no_bytes_make_it_ready_by_chance(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!matches!(read(&answer), Ok(Look::Ready)));
        }
    }
}
