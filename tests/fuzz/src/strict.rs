//! A reader of HTTP/1 that knows one reading only, and shares nothing with the proxy: slow, obvious, and
//! over bytes that are all there (RFC 9112).

/// Empty lines before a request (RFC 9112, 2.2 asks for one at least).
const MAX_EMPTY_LINES: usize = 2;

/// A whole head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The first line's parts, the third with all that is behind it.
    pub(crate) start: [String; 3],
    /// Names in lower case, values without the white space around them.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
}

/// What is at the beginning of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read<T> {
    /// This, and how many bytes it takes.
    Whole(T, usize),
    /// Its beginning.
    Part,
    /// Something else.
    Bad(&'static str),
}

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A request of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) head: Head,
    /// None where it is broken or does not end.
    pub(crate) body: Option<Vec<u8>>,
}

impl Head {
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        let fields = self.fields.iter().filter(|(found, _)| found == name);
        fields.map(|(_, value)| &**value).collect()
    }

    pub(crate) fn method(&self) -> &str {
        &self.start[0]
    }

    pub(crate) fn target(&self) -> &str {
        &self.start[1]
    }

    pub(crate) fn status(&self) -> u16 {
        self.start[1].parse().unwrap_or(0)
    }

    /// Whether what follows this answer to a request of method `to` is no HTTP.
    pub(crate) fn leaves(&self, to: &str) -> bool {
        let status = self.status();
        status == 101 || (to == "CONNECT" && (200..300).contains(&status))
    }

    /// Whether a list in this field has this word.
    pub(crate) fn lists(&self, name: &str, word: &str) -> bool {
        let values = self.values(name).into_iter();
        values
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The framing that the fields tell; none where they tell none.
    fn told(&self) -> Result<Option<Framing>, &'static str> {
        match (
            &*self.values("content-length"),
            &*self.values("transfer-encoding"),
        ) {
            ([], []) => Ok(None),
            ([length], []) => {
                let digits = length.iter().all(u8::is_ascii_digit);
                let text = std::str::from_utf8(length).ok().filter(|_| digits);
                let length = text.and_then(|text| text.parse().ok());
                length
                    .map(Framing::Length)
                    .map(Some)
                    .ok_or("a content-length")
            }
            ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
            _ => Err("more than one framing, or an unknown one"),
        }
    }
}

/// A request's head.
pub(crate) fn request_head(bytes: &[u8]) -> Read<(Head, Framing)> {
    let mut skipped = 0;
    while skipped < 2 * MAX_EMPTY_LINES && bytes[skipped..].starts_with(b"\r\n") {
        skipped += 2;
    }
    let (head, len) = match head(&bytes[skipped..]) {
        Read::Whole(head, len) => (head, skipped + len),
        Read::Part => return Read::Part,
        Read::Bad(why) => return Read::Bad(why),
    };
    let [method, target, version] = &head.start;
    if !is_token(method.as_bytes()) || target.is_empty() {
        return Read::Bad("a request line");
    }
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Read::Bad("a version");
    }
    match head.told() {
        Ok(Some(Framing::Chunked)) if version == "HTTP/1.0" => Read::Bad("chunks in HTTP/1.0"),
        Ok(Some(framing)) if method == "CONNECT" && framing != Framing::Length(0) => {
            Read::Bad("a CONNECT with a body")
        }
        Ok(framing) => Read::Whole((head, framing.unwrap_or(Framing::Length(0))), len),
        Err(why) => Read::Bad(why),
    }
}

/// A response's head. `to` is the method that it answers.
pub(crate) fn response_head(bytes: &[u8], to: &str) -> Read<(Head, Framing)> {
    let (head, len) = match head(bytes) {
        Read::Whole(head, len) => (head, len),
        Read::Part => return Read::Part,
        Read::Bad(why) => return Read::Bad(why),
    };
    let [version, status, _] = &head.start;
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Read::Bad("a version");
    }
    if status.len() != 3 || !status.bytes().all(|byte| byte.is_ascii_digit()) {
        return Read::Bad("a status");
    }
    let framing = match head.told() {
        Ok(framing) => framing.unwrap_or(Framing::UntilClose),
        Err(why) => return Read::Bad(why),
    };
    let status = head.status();
    let tunnel = to == "CONNECT" && (200..300).contains(&status);
    let none = to == "HEAD" || status < 200 || status == 204 || status == 304 || tunnel;
    let framing = if none { Framing::Length(0) } else { framing };
    Read::Whole((head, framing), len)
}

/// A body.
pub(crate) fn body(bytes: &[u8], framing: Framing) -> Read<Vec<u8>> {
    match framing {
        Framing::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            match bytes.get(..length) {
                Some(body) => Read::Whole(body.to_vec(), length),
                None => Read::Part,
            }
        }
        Framing::Chunked => chunks(bytes),
        Framing::UntilClose => Read::Whole(bytes.to_vec(), bytes.len()),
    }
}

/// Every request that `bytes` hold, up to the first that is none. The request of this number, from 0, is
/// the last one where `leaves` says so: what follows it is returned, and is no HTTP.
pub(crate) fn requests(
    bytes: &[u8],
    leaves: impl Fn(usize) -> bool,
) -> (Vec<Request>, Option<&[u8]>) {
    let mut requests = Vec::new();
    let mut rest = bytes;
    while let Read::Whole((head, framing), len) = request_head(rest) {
        rest = &rest[len..];
        let Read::Whole(body, len) = body(rest, framing) else {
            requests.push(Request { head, body: None });
            return (requests, None);
        };
        rest = &rest[len..];
        let body = Some(body);
        requests.push(Request { head, body });
        if leaves(requests.len() - 1) {
            return (requests, Some(rest));
        }
    }
    (requests, None)
}

fn head(bytes: &[u8]) -> Read<Head> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Read::Part;
    };
    let text = &bytes[..end];
    let mut lines = Vec::new();
    let mut from = 0;
    while let Some(at) = find(&text[from..], b"\r\n") {
        lines.push(&text[from..from + at]);
        from += at + 2;
    }
    lines.push(&text[from..]);
    if lines.iter().any(|line| !is_text(line)) {
        return Read::Bad("a control character");
    }
    let (first, fields) = lines.split_first().expect("there is one");
    let first = String::from_utf8_lossy(first).into_owned();
    let mut start = first.splitn(3, ' ').map(str::to_owned);
    let mut next = || start.next().unwrap_or_default();
    let start = [next(), next(), next()];
    let mut named = Vec::new();
    for field in fields {
        let Some(colon) = field.iter().position(|byte| *byte == b':') else {
            return Read::Bad("a field without colon");
        };
        let (name, value) = (&field[..colon], &field[colon + 1..]);
        if !is_token(name) {
            return Read::Bad("a field's name");
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        named.push((name, value.trim_ascii().to_vec()));
    }
    let fields = named;
    Read::Whole(Head { start, fields }, end + 4)
}

fn chunks(bytes: &[u8]) -> Read<Vec<u8>> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else {
            return Read::Part;
        };
        let line = &bytes[at..at + end];
        at += end + 2;
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let (size, behind) = line.split_at(digits);
        let behind = behind.trim_ascii_start();
        let size = std::str::from_utf8(size).unwrap_or_default();
        let Ok(size) = u64::from_str_radix(size, 16) else {
            return Read::Bad("a chunk's size");
        };
        if !is_text(line) || !(behind.is_empty() || behind.starts_with(b";")) {
            return Read::Bad("a chunk's extension");
        }
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(data) = bytes[at..].get(..size) else {
            return Read::Part;
        };
        body.extend_from_slice(data);
        at += size;
        match bytes[at..].get(..2) {
            Some(b"\r\n") => at += 2,
            Some(_) => return Read::Bad("a chunk's end"),
            None => return Read::Part,
        }
    }
    // Trailers.
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else {
            return Read::Part;
        };
        let line = &bytes[at..at + end];
        at += end + 2;
        if line.is_empty() {
            return Read::Whole(body, at);
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !is_text(line) || !is_token(name) || name.len() == line.len() {
            return Read::Bad("a trailer");
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn is_text(line: &[u8]) -> bool {
    line.iter()
        .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

fn is_token(bytes: &[u8]) -> bool {
    let other = b"!#$%&'*+-.^_`|~";
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || other.contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_part)
}
