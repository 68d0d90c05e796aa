//! Reading single values. Each function answers `None` for what it does not understand.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{
    ExplicitInbound, HostPort, Interception, ListenAddr, MAX_CONNECTION_AGE, MAX_DRAIN_TIMEOUT,
    MIN_CONNECTION_AGE, SettingError, SidecarMode,
};
use crate::http::forwarded::ForwardedFor;
use crate::net::age::AgeCap;
use weft_proto::logs::LogFormat;

/// As much of a bad value as an error shows, in characters.
const MAX_SHOWN: usize = 200;

/// Looks variables up and gathers what is wrong with them.
pub(super) struct Reader<L> {
    look_up: L,
    errors: Vec<SettingError>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    pub(super) fn new(look_up: L) -> Self {
        Self {
            look_up,
            errors: Vec::new(),
        }
    }

    /// A variable that must be there. `None` when an error was noted.
    pub(super) fn required<T>(
        &mut self,
        variable: &'static str,
        parse: impl Fn(&str) -> Option<T>,
        expected: &'static str,
        mend: &'static str,
    ) -> Option<T> {
        let value = self.value(variable);
        let parsed = value.as_deref().and_then(parse);
        if parsed.is_none() {
            self.refuse(variable, value, expected, mend);
        }
        parsed
    }

    /// As [`Self::required`], for what people fill with a secret by mistake: never shown.
    pub(super) fn required_secret<T>(
        &mut self,
        variable: &'static str,
        parse: impl Fn(&str) -> Option<T>,
        expected: &'static str,
        mend: &'static str,
    ) -> Option<T> {
        let value = self.value(variable);
        let parsed = value.as_deref().and_then(parse);
        if parsed.is_none() {
            let shown = value.map(|_| "(not shown)".to_owned());
            self.refuse(variable, shown, expected, mend);
        }
        parsed
    }

    /// A variable that may be missing. Also `default` when an error was noted.
    pub(super) fn or<T>(
        &mut self,
        variable: &'static str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
        expected: &'static str,
        mend: &'static str,
    ) -> T {
        let Some(value) = self.value(variable) else {
            return default;
        };
        if let Some(parsed) = parse(&value) {
            return parsed;
        }
        self.refuse(variable, Some(value), expected, mend);
        default
    }

    /// Notes that a variable does not go together with another.
    pub(super) fn clash(
        &mut self,
        variable: &'static str,
        expected: &'static str,
        mend: &'static str,
    ) {
        let value = self.value(variable);
        self.refuse(variable, value, expected, mend);
    }

    /// What was wrong, in the order of reading.
    pub(super) fn errors(self) -> Vec<SettingError> {
        self.errors
    }

    fn value(&self, variable: &str) -> Option<String> {
        let value = (self.look_up)(variable)?;
        let trimmed = value.trim();
        (!trimmed.is_empty()).then(|| trimmed.to_owned())
    }

    fn refuse(
        &mut self,
        variable: &'static str,
        value: Option<String>,
        expected: &'static str,
        mend: &'static str,
    ) {
        self.errors.push(SettingError {
            variable,
            value: value.map(|value| value.chars().take(MAX_SHOWN).collect()),
            expected,
            mend,
        });
    }
}

/// Values separated by commas, in order, each once.
pub(super) fn list<T: PartialEq>(
    item: impl Fn(&str) -> Option<T>,
) -> impl Fn(&str) -> Option<Vec<T>> {
    move |text| {
        let mut items = Vec::new();
        for part in text.split(',') {
            let parsed = item(part.trim())?;
            if !items.contains(&parsed) {
                items.push(parsed);
            }
        }
        Some(items)
    }
}

/// RFC 1123: labels with dots between them.
pub(super) fn dns_name(text: &str) -> Option<String> {
    let fits = text.len() <= 253 && text.split('.').all(is_dns_label);
    fits.then(|| text.to_owned())
}

/// RFC 1123.
pub(super) fn dns_label(text: &str) -> Option<String> {
    is_dns_label(text).then(|| text.to_owned())
}

fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A label's value in Kubernetes.
pub(super) fn zone(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (text.len() <= 63 && text.bytes().all(allowed)).then(|| text.to_owned())
}

/// `host:port`, `[address]:port`.
pub(super) fn host_port(text: &str) -> Option<HostPort> {
    let (host, port_text) = text.rsplit_once(':')?;
    let port = port(port_text)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let address: std::net::Ipv6Addr = rest.strip_suffix(']')?.parse().ok()?;
            address.to_string()
        }
        None => match host.parse::<std::net::Ipv4Addr>() {
            Ok(address) => address.to_string(),
            // A host of digits only is a mistyped address, not a name.
            Err(_)
                if host
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'.') =>
            {
                return None;
            }
            Err(_) => {
                let host = host.to_ascii_lowercase();
                dns_name(host.strip_suffix('.').unwrap_or(&host))?;
                host
            }
        },
    };
    Some(HostPort { host, port })
}

/// A path; whether there is such a file is seen when it is read. The replacement character stands
/// for what was not Unicode.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.contains(['\0', '\n', char::REPLACEMENT_CHARACTER])).then(|| PathBuf::from(text))
}

/// A port, never 0.
pub(super) fn port(text: &str) -> Option<u16> {
    within(text, 1, u16::MAX)
}

/// An address that a workload can have.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    (!address.is_unspecified()).then_some(address)
}

/// A number from `least` to `most`, digits only.
pub(super) fn within<T: Copy + FromStr + PartialOrd>(text: &str, least: T, most: T) -> Option<T> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: T = text.parse().ok()?;
    (number >= least && number <= most).then_some(number)
}

/// Decimal, or hexadecimal with `0x`; never 0, which is no mark.
pub(super) fn mark(text: &str) -> Option<u32> {
    let mark = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()?
        }
        Some(_) => return None,
        None => within(text, 1, u32::MAX)?,
    };
    (mark != 0).then_some(mark)
}

/// A time up to the longest drain.
pub(in crate::app) fn drain_timeout(text: &str) -> Option<Duration> {
    time(text).filter(|time| *time <= MAX_DRAIN_TIMEOUT)
}

/// Bytes: a whole number, alone or with `Ki`, `Mi` or `Gi`.
pub(super) fn size(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let number: u64 = number.parse().ok()?;
    let bytes_per_unit = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes_per_unit)
}

/// A time within its bounds, or `0` or `off`.
pub(super) fn connection_age(text: &str) -> Option<AgeCap> {
    if text == "0" || text.eq_ignore_ascii_case("off") {
        return Some(AgeCap::OFF);
    }
    let age = time(text)?;
    let within = (MIN_CONNECTION_AGE..=MAX_CONNECTION_AGE).contains(&age) || age.is_zero();
    within.then(|| AgeCap::about(age))
}

/// See [`interception`].
pub(super) fn forwarded_for(text: &str) -> Option<ForwardedFor> {
    word(
        text,
        &[
            ("append", ForwardedFor::Append),
            ("keep", ForwardedFor::Keep),
        ],
    )
}

/// See [`interception`].
pub(super) fn keep_header_case(text: &str) -> Option<bool> {
    word(text, &[("keep", true), ("lower", false)])
}

/// A whole number with `ms`, `s`, `m` or `h`.
pub(super) fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis_per_unit)?))
}

/// As spelled in the environment's documentation; case does not matter.
pub(super) fn interception(text: &str) -> Option<Interception> {
    word(
        text,
        &[
            ("redirect", Interception::Redirect),
            ("explicit", Interception::Explicit),
        ],
    )
}

/// See [`interception`].
pub(super) fn sidecar_mode(text: &str) -> Option<SidecarMode> {
    word(
        text,
        &[
            ("native", SidecarMode::Native),
            ("legacy", SidecarMode::Legacy),
        ],
    )
}

/// See [`interception`].
pub(super) fn log_format(text: &str) -> Option<LogFormat> {
    word(
        text,
        &[("json", LogFormat::Json), ("plain", LogFormat::Plain)],
    )
}

/// Listeners and the application behind them. An application where the sidecar listens would be the
/// sidecar.
pub(super) fn explicit_inbound(text: &str) -> Option<Vec<ExplicitInbound>> {
    let listeners = list(explicit_listener)(text)?;
    let holds = |address| listeners.iter().filter(move |one| one.listen == address);
    let each_once = listeners.iter().all(|one| holds(one.listen).count() == 1);
    let none_is_ours = listeners.iter().all(|one| holds(one.app).count() == 0);
    (each_once && none_is_ours).then_some(listeners)
}

fn explicit_listener(text: &str) -> Option<ExplicitInbound> {
    let (listen, app) = text.split_once('=')?;
    let listen: SocketAddr = listen.trim().parse().ok()?;
    let app = loopback_socket(app.trim())?;
    let fits = !listen.ip().is_unspecified() && listen.port() != 0 && app.port() != 0;
    fits.then_some(ExplicitInbound { listen, app })
}

/// What only the workload itself can reach.
pub(super) fn loopback_socket(text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = text.parse().ok()?;
    address.ip().is_loopback().then_some(address)
}

/// Port 0 lets the kernel choose, which tests want.
pub(super) fn listen(text: &str) -> Option<ListenAddr> {
    text.parse().ok().map(ListenAddr::new)
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Option<T> {
    let found = words
        .iter()
        .find(|(word, _)| text.eq_ignore_ascii_case(word));
    found.map(|(_, value)| *value)
}
