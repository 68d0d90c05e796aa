//! A further label of request metrics.

use http::HeaderName;
use weft_proto::header_label;
use weft_proto::names::env;

use super::parse::Reader;
use crate::telemetry::HeaderLabelSettings;

/// Reads which header is a label; `None` where none is.
pub(super) fn header_label<L: Fn(&str) -> Option<String>>(
    reader: &mut Reader<L>,
) -> Option<HeaderLabelSettings> {
    let chosen = reader.or(
        env::METRICS_HEADER_LABEL,
        None,
        |text| Some(Some(chosen(text)?)),
        "LABEL=HEADER, with a label that metrics do not have yet and a header that holds no secret",
        "name them as tenant=x-tenant-id, or leave it out for no such label",
    );
    let values = reader.or(
        env::METRICS_HEADER_VALUES,
        header_label::DEFAULT_VALUES,
        header_label::parse_values,
        "a number from 1 to 500",
        "leave it out for 50",
    );
    chosen.map(|(label, header)| HeaderLabelSettings {
        label: label.into(),
        header,
        values,
    })
}

fn chosen(text: &str) -> Option<(String, HeaderName)> {
    let (label, header) = header_label::parse(text)?;
    Some((label.to_owned(), header.parse().ok()?))
}
