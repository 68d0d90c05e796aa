//! Images, quantities, times and ports as people write them. What reads them answers `None` for what
//! it does not understand; the caller knows where it stood and how to mend it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use weft_proto::names::env;

/// Entries that one list may have: what `weft-proxy init` takes.
pub const MAX_ENTRIES: usize = 64;
/// The longest drain that a sidecar takes.
pub const MAX_DRAIN: Duration = Duration::from_secs(3_600);
/// Letters of an image reference: a bound of ours, well above what registries allow.
const MAX_IMAGE: usize = 512;

/// A reference to a container image: `[HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Image(String);

/// An amount of a resource, as Kubernetes writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

impl Image {
    /// Reads a reference.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon behind the last slash begins a tag; one before it a port.
        let path_begins = name.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match name[path_begins..].rfind(':') {
            Some(colon) => (
                &name[..path_begins + colon],
                Some(&name[path_begins + colon + 1..]),
            ),
            None => (name, None),
        };
        let fits = text.len() <= MAX_IMAGE
            && path.split('/').enumerate().all(|(at, part)| {
                is_component(part) || (at == 0 && path.contains('/') && is_registry(part))
            })
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        fits.then(|| Self(text.to_owned()))
    }
}

impl Quantity {
    /// Reads an amount that is more than nothing: digits with an optional point, and one of the
    /// suffixes `m`, `k`, `M`, `G`, `T`, `P`, `E`, `Ki`, `Mi`, `Gi`, `Ti`, `Pi`, `Ei`.
    pub fn parse(text: &str) -> Option<Self> {
        let quantity = Self(text.to_owned());
        (quantity.thousandths()? > 0).then_some(quantity)
    }

    /// Whether this is at most `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.thousandths() <= other.thousandths()
    }

    /// The amount, finer ones rounded up.
    fn thousandths(&self) -> Option<u128> {
        let text = self.0.as_str();
        let digits_end = text
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits_end);
        let scale: u128 = match suffix {
            "m" => 1,
            "" => 1_000,
            "k" => 1_000_000,
            "M" => 1_000_000_000,
            "G" => 1_000_000_000_000,
            "T" => 1_000_000_000_000_000,
            "P" => 1_000_000_000_000_000_000,
            "E" => 1_000_000_000_000_000_000_000,
            "Ki" => 1_000 << 10,
            "Mi" => 1_000 << 20,
            "Gi" => 1_000 << 30,
            "Ti" => 1_000 << 40,
            "Pi" => 1_000 << 50,
            "Ei" => 1_000 << 60,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_number = !whole.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || whole.len() > 12 || fraction.len() > 9 {
            return None;
        }
        let whole: u128 = whole.parse().ok()?;
        let divisor = 10_u128.pow(fraction.len() as u32);
        let fraction: u128 = if fraction.is_empty() {
            0
        } else {
            fraction.parse().ok()?
        };
        Some(whole * scale + (fraction * scale).div_ceil(divisor))
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole number with `ms`, `s`, `m` or `h`.
pub fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number
        .checked_mul(millis_per_unit)
        .map(Duration::from_millis)
}

/// As [`time`] reads it.
pub fn time_text(time: Duration) -> String {
    match time.as_millis() {
        millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        millis => format!("{millis}ms"),
    }
}

/// Entries separated by commas, each once; none for an empty text.
pub fn list<T: PartialEq>(text: &str, item: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let mut items = Vec::new();
    if text.trim().is_empty() {
        return Some(items);
    }
    for part in text.split(',') {
        let parsed = item(part.trim())?;
        if !items.contains(&parsed) {
            items.push(parsed);
        }
    }
    (items.len() <= MAX_ENTRIES).then_some(items)
}

/// A port from 1 to 65535.
pub fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if is_number { text.parse().ok()? } else { 0 };
    (port != 0).then_some(port)
}

/// An address, or a subnet with the length of its prefix.
pub fn subnet(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).ok()
}

/// `NAME=VALUE` of one of the sidecar's [limits](env::PROCESS_LIMITS): a number, a size or a time. Its
/// bounds are the sidecar's to know.
pub fn limit(text: &str) -> Option<(&'static str, String)> {
    let (name, value) = text.split_once('=')?;
    let known = env::PROCESS_LIMITS
        .into_iter()
        .find(|known| *known == name)?;
    let unit = value.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let units = ["", "Ki", "Mi", "Gi", "ms", "s", "m", "h"];
    let is_value = unit.len() < value.len() && units.contains(&unit);
    is_value.then(|| (known, value.to_owned()))
}

/// `http://host:port`; whether there is such a host is the sidecar's to find out.
pub fn collector(text: &str) -> Option<String> {
    let (host, number) = text.strip_prefix("http://")?.rsplit_once(':')?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
    let fits = !host.is_empty() && host.bytes().all(is_host) && port(number).is_some();
    fits.then(|| text.to_owned())
}

/// A share from 0 to 1, as `0.01`.
pub fn share(text: &str) -> Option<String> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let share: f64 = text.parse().ok().filter(|_| plain)?;
    (0.0..=1.0).contains(&share).then(|| text.to_owned())
}

/// `w3c`, `b3` and `b3multi`, separated by commas.
pub fn propagation(text: &str) -> Option<String> {
    let known = |word: &str| one_of(word, &["w3c", "b3", "b3multi"]).map(str::to_owned);
    list(text, known).map(|formats| formats.join(","))
}

/// `error`, `warn`, `info`, `debug` or `trace`.
pub fn log_level(text: &str) -> Option<&str> {
    one_of(text, &["error", "warn", "info", "debug", "trace"])
}

/// One of these words.
pub fn one_of<'a>(text: &'a str, words: &[&str]) -> Option<&'a str> {
    words.contains(&text).then_some(text)
}

/// RFC 1123: what a namespace's name is.
pub fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_component(text: &str) -> bool {
    let is_end = |byte: Option<u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    is_end(text.bytes().next())
        && is_end(text.bytes().last())
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
        })
}

fn is_registry(text: &str) -> bool {
    let (host, is_port) = match text.split_once(':') {
        Some((host, number)) => (host, port(number).is_some()),
        None => (text, true),
    };
    is_port && is_component(&host.to_ascii_lowercase())
}

fn is_tag(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['.', '-'])
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_may_have_a_registry_a_tag_and_a_digest() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for good in [
            "weft-proxy",
            "weft-proxy:0.1.0",
            "registry.example:5000/mesh/weft-proxy:v1",
            "localhost:5000/weft-proxy",
            &format!("weft-proxy@{digest}"),
            &format!("registry.example/weft-proxy:0.1.0@{digest}"),
        ] {
            assert!(Image::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "weft proxy",
            "Weft-Proxy",
            "weft-proxy:",
            "weft-proxy:-1",
            "weft-proxy@sha256:12",
            "/weft-proxy",
            "host:0/weft-proxy",
            "a//b",
        ] {
            assert!(Image::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn quantities_are_compared_by_what_they_amount_to() {
        let quantity = |text| Quantity::parse(text).expect("a good quantity");
        for (less, more) in [
            ("100m", "0.1"),
            ("1500m", "1.5"),
            ("999", "1k"),
            ("1k", "1Ki"),
            ("250M", "250Mi"),
            ("0.5Gi", "512Mi"),
        ] {
            assert!(quantity(less).is_within(&quantity(more)), "{less} {more}");
        }
        assert!(!quantity("1Gi").is_within(&quantity("1000Mi")));
        for bad in [
            "",
            "0",
            "-1",
            "1 Gi",
            "1gi",
            "Mi",
            ".",
            "1e3x",
            "1.0000000000",
        ] {
            assert!(Quantity::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for text in ["0s", "500ms", "30s", "1500ms"] {
            assert_eq!(time(text).map(time_text).as_deref(), Some(text));
        }
        assert_eq!(time("2m"), Some(Duration::from_secs(120)));
        for bad in ["", "30", "s", "1.5s", "1d", "-1s", "99999999999999999999s"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_sidecars_understand_of_traces() {
        for good in [
            "http://collector.observability:4317",
            "http://[fd00::7]:4317",
        ] {
            assert_eq!(collector(good).as_deref(), Some(good));
        }
        for bad in [
            "collector:4317",
            "https://a:4317",
            "http://a",
            "http://a:0",
            "http://a/:1",
        ] {
            assert_eq!(collector(bad), None, "{bad}");
        }
        assert_eq!(share("0.01").as_deref(), Some("0.01"));
        for bad in ["1.1", "-1", "1e-2", "", "half"] {
            assert_eq!(share(bad), None, "{bad}");
        }
        assert_eq!(propagation("w3c, b3").as_deref(), Some("w3c,b3"));
        assert_eq!(propagation("w3c,jaeger"), None);
    }

    #[test]
    fn limits_have_known_names_and_plain_values() {
        let some = |name, value: &str| Some((name, value.to_owned()));
        assert_eq!(limit("WEFT_MAX_REQUESTS=5"), some(env::MAX_REQUESTS, "5"));
        assert_eq!(
            limit("WEFT_IDLE_TIMEOUT=5ms"),
            some(env::IDLE_TIMEOUT, "5ms")
        );
        assert_eq!(limit("WEFT_BODY_BUFFER=5Gi"), some(env::BODY_BUFFER, "5Gi"));
        for wrong in [
            "WEFT_MAX_REQUESTS",
            "WEFT_MAX_REQUESTS=",
            "WEFT_MAX_REQUESTS=Ki",
            "WEFT_MAX_REQUESTS=-1",
            "WEFT_MAX_REQUESTS=1e6",
            "WEFT_MAX_REQUESTS =1",
            "WEFT_TOKEN_FILE=1",
            "PATH=1",
        ] {
            assert_eq!(limit(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lists_are_bounded_and_each_entry_counts_once() {
        assert_eq!(list(" 80, 443,80", port), Some(vec![80, 443]));
        assert_eq!(list("", port), Some(vec![]));
        assert_eq!(list("80,,443", port), None);
        assert_eq!(list("0", port), None);
        let many: Vec<_> = (1..=65).map(|port: u16| port.to_string()).collect();
        assert_eq!(list(&many.join(","), port), None);
        assert_eq!(
            list(&many[1..].join(","), port).map(|list| list.len()),
            Some(64)
        );
    }
}
