//! A program that calls a service so many times over and ends: what a Job's container runs in the suites.
//! Exit codes: 0 where every answer was 200, else 1.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

/// What one exchange may take.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(to), Some(times)) = (args.next(), args.next().and_then(|text| text.parse().ok()))
    else {
        eprintln!("weft-caller HOST:PORT TIMES");
        return ExitCode::from(64);
    };
    for number in 0..times {
        if let Err(error) = call(&to, number) {
            eprintln!("call {number} to {to}: {error}");
            return ExitCode::FAILURE;
        }
    }
    println!("{times} calls to {to} were answered");
    ExitCode::SUCCESS
}

fn call(to: &str, number: u64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET /call HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\nx-load-id: call-{number}\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(std::io::Error::other(answer))
}
