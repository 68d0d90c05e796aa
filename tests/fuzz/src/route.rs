//! Which rules a request matches.
//!
//! Input, a line each: parts of a rule (`path exact /a`, `path prefix /a`, `path regex /a.*`,
//! `method GET`, `header exact x y`, `header prefix x y`, `header regex x y`, `header present x`,
//! `query exact a b`, `query regex a b`, `grpc`), `or` for the next rule, then `request GET /a?b` with
//! its headers as `x: y`.

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};
use weft_proto::pattern::Pattern;
use weft_proxy::policy::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use weft_proxy::resilience::route::matches_any;

/// Lines that are read.
const MAX_LINES: usize = 64;
/// Bytes of a pattern: time grows with it.
const MAX_PATTERN: usize = 64;

/// Rules match as a slow, obvious matcher says, together and each alone.
pub fn target(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let case = Case::read(&text);
    for request in &case.requests {
        let path = request.uri.path();
        let query = request.uri.query();
        let ours = |rules: &[RouteMatch]| {
            matches_any(rules, &request.method, path, query, &request.headers)
        };
        let mut any = case.rules.is_empty();
        for rule in &case.rules {
            let slowly = request.matches(rule);
            let found = ours(std::slice::from_ref(rule));
            assert_eq!(found, slowly, "{request:?} by {rule:?}");
            any |= slowly;
        }
        assert_eq!(ours(&case.rules), any);
    }
}

#[derive(Debug, Default)]
struct Case {
    rules: Vec<RouteMatch>,
    requests: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Case {
    fn read(text: &str) -> Self {
        let mut case = Self::default();
        for line in text.lines().take(MAX_LINES) {
            // What cannot be read is left out: so most bytes mean something.
            let _ = case.line(line);
        }
        case
    }

    fn line(&mut self, line: &str) -> Option<()> {
        if let Some(request) = self.requests.last_mut()
            && let Some((name, value)) = line.split_once(':')
        {
            let name: HeaderName = name.parse().ok()?;
            request.headers.append(name, value.trim().parse().ok()?);
            return Some(());
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "request" {
            let (method, target) = rest.split_once(' ')?;
            self.requests.push(Asked {
                method: method.parse().ok()?,
                uri: target.parse().ok()?,
                headers: HeaderMap::new(),
            });
            return Some(());
        }
        if word == "or" || self.rules.is_empty() {
            self.rules.push(RouteMatch {
                path: None,
                method: None,
                headers: Vec::new(),
                query: Vec::new(),
                grpc: false,
            });
        }
        let rule = self.rules.last_mut()?;
        match word {
            "grpc" => rule.grpc = true,
            "method" => rule.method = Some(rest.parse().ok()?),
            "path" => rule.path = Some(path(rest)?),
            "header" => rule.headers.push(header(rest)?),
            "query" => rule.query.push(query(rest)?),
            _ => {}
        }
        Some(())
    }
}

fn path(text: &str) -> Option<PathMatch> {
    let (kind, path) = text.split_once(' ')?;
    Some(match kind {
        "exact" => PathMatch::Exact(path.into()),
        "prefix" => PathMatch::Prefix(path.into()),
        "regex" => PathMatch::Regex(pattern(path)?),
        _ => return None,
    })
}

fn header(text: &str) -> Option<HeaderMatch> {
    let mut words = text.splitn(3, ' ');
    let (kind, name) = (words.next()?, words.next()?);
    let value = words.next().unwrap_or_default();
    let value = match kind {
        "exact" => ValueMatch::Exact(HeaderValue::from_str(value).ok()?),
        "prefix" => ValueMatch::Prefix(value.as_bytes().into()),
        "regex" => ValueMatch::Regex(pattern(value)?),
        "present" => ValueMatch::Present,
        _ => return None,
    };
    let name = name.parse().ok()?;
    Some(HeaderMatch { name, value })
}

fn query(text: &str) -> Option<QueryMatch> {
    let mut words = text.splitn(3, ' ');
    let (kind, name) = (words.next()?, words.next()?);
    let value = words.next().unwrap_or_default();
    Some(QueryMatch {
        name: name.into(),
        value: value.into(),
        pattern: match kind {
            "exact" => None,
            "regex" => Some(pattern(value)?),
            _ => return None,
        },
    })
}

fn pattern(text: &str) -> Option<Pattern> {
    let text = text.get(..MAX_PATTERN).unwrap_or(text);
    Pattern::new(text).ok()
}

impl Asked {
    fn matches(&self, rule: &RouteMatch) -> bool {
        let method = rule.method.as_ref();
        let path = rule.path.as_ref();
        method.is_none_or(|method| method.as_str() == self.method.as_str())
            && path.is_none_or(|path| self.matches_path(path))
            && (!rule.grpc || self.is_grpc())
            && rule.query.iter().all(|query| self.matches_query(query))
            && rule
                .headers
                .iter()
                .all(|header| self.matches_header(header))
    }

    fn matches_path(&self, wanted: &PathMatch) -> bool {
        let path = self.uri.path();
        match wanted {
            PathMatch::Exact(exact) => path == &**exact,
            PathMatch::Regex(pattern) => pattern.matches(path),
            PathMatch::Prefix(prefix) => {
                // The root is before everything, `*` included.
                if ["", "/"].contains(&&**prefix) {
                    return true;
                }
                // Whole segments; a slash at the end of the prefix is none.
                let mut wanted: Vec<&str> = prefix.split('/').collect();
                if wanted.last() == Some(&"") {
                    wanted.pop();
                }
                let segments: Vec<&str> = path.split('/').collect();
                wanted
                    .iter()
                    .enumerate()
                    .all(|(at, segment)| segments.get(at) == Some(segment))
            }
        }
    }

    fn matches_header(&self, wanted: &HeaderMatch) -> bool {
        let mut found = false;
        for (name, value) in &self.headers {
            let value = value.as_bytes();
            let fits = match &wanted.value {
                ValueMatch::Exact(exact) => exact.as_bytes() == value,
                ValueMatch::Prefix(prefix) => value.starts_with(prefix),
                ValueMatch::Present => true,
                ValueMatch::Regex(pattern) => {
                    let text = value
                        .iter()
                        .all(|byte| *byte == b'\t' || (b' '..0x7f).contains(byte));
                    text && pattern.matches(std::str::from_utf8(value).unwrap_or_default())
                }
            };
            found |= name == wanted.name && fits;
        }
        found
    }

    fn matches_query(&self, wanted: &QueryMatch) -> bool {
        let query = self.uri.query().unwrap_or_default();
        for pair in query.split('&') {
            let at = pair.find('=').unwrap_or(pair.len());
            let value = pair.get(at + 1..).unwrap_or_default();
            if decoded(&pair[..at]) != wanted.name.as_bytes() {
                continue;
            }
            // The first of a name counts.
            let value = decoded(value);
            return match &wanted.pattern {
                None => value == wanted.value.as_bytes(),
                Some(pattern) => String::from_utf8(value).is_ok_and(|text| pattern.matches(&text)),
            };
        }
        false
    }

    fn is_grpc(&self) -> bool {
        let kind = self.headers.get("content-type").map(HeaderValue::as_bytes);
        let kind = kind.unwrap_or_default().to_ascii_lowercase();
        kind == b"application/grpc"
            || [
                b"application/grpc+",
                b"application/grpc;",
                b"application/grpc ",
            ]
            .into_iter()
            .any(|start| kind.starts_with(start))
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|digits| {
            let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
            let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
            u8::from_str_radix(digits, 16).ok()
        });
        match (bytes[at], escape) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    decoded
}
