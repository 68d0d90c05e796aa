//! A further label of request metrics, which takes its values from a header: `tenant=x-tenant-id`.

/// Values that have series of their own where nothing is said of their number.
pub const DEFAULT_VALUES: usize = 50;
/// The most of them that can be asked for.
pub const MAX_VALUES: usize = 500;
/// The longest name of a label or a header, in bytes.
const MAX_NAME: usize = 63;

/// Headers that hold secrets: never a label.
const SECRET: [&str; 4] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
];
/// Labels that request metrics have anyway, and those that belong to whoever scrapes.
const TAKEN: [&str; 19] = [
    "backend",
    "container",
    "direction",
    "grpc_status",
    "instance",
    "job",
    "le",
    "method",
    "namespace",
    "node",
    "outcome",
    "peer",
    "pod",
    "quantile",
    "route",
    "service",
    "status",
    "tls",
    "workload",
];

/// Reads `LABEL=HEADER`: the label, and the header in lower case. The label is of lower-case letters,
/// digits and underscores behind a letter, and none that metrics have anyway; the header is none that
/// holds secrets. `None` for everything else.
pub fn parse(text: &str) -> Option<(&str, String)> {
    let (label, header) = text.split_once('=')?;
    let short = |name: &str| (1..=MAX_NAME).contains(&name.len());
    let is_word = label
        .bytes()
        .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_');
    let is_label = short(label)
        && is_word
        && label.starts_with(|it: char| it.is_ascii_lowercase())
        && !TAKEN.contains(&label);
    let header = header.to_ascii_lowercase();
    let is_header = short(&header)
        && header
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'_')
        && !SECRET.contains(&&*header);
    (is_label && is_header).then_some((label, header))
}

/// Reads how many values have series of their own: 1 to [`MAX_VALUES`].
pub fn parse_values(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let values: usize = text.parse().ok().filter(|_| digits)?;
    (1..=MAX_VALUES).contains(&values).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_headers() {
        let parsed = parse("tenant=X-Tenant-Id");
        assert_eq!(parsed, Some(("tenant", "x-tenant-id".to_owned())));
        assert!(parse("a_1=b").is_some());
        let long = "a".repeat(64);
        for wrong in [
            "",
            "tenant",
            "=x-tenant",
            "tenant=",
            "1a=b",
            "_a=b",
            "Tenant=b",
            "a-b=c",
            "a=b c",
            "a=b=c",
            "a=:authority",
            "service=x-service",
            "tenant=Authorization",
            "tenant=cookie",
            &format!("{long}=a"),
            &format!("a={long}"),
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_of_values() {
        assert_eq!(parse_values("1"), Some(1));
        assert_eq!(parse_values("500"), Some(500));
        for wrong in ["", "0", "501", "+5", "5.0", "x"] {
            assert_eq!(parse_values(wrong), None, "{wrong}");
        }
    }
}
