//! Reading Prometheus text, as far as counters and gauges need it: names, labels and values. Lines
//! that are none of it are left out.

/// One page of metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The family's name.
    pub name: String,
    /// Names and values, in the order of the page.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// Reads a page.
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self {
            samples: lines.filter_map(Sample::parse).collect(),
        }
    }

    /// Samples of this name that carry all of these labels.
    pub fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            let carries = |(label, value): &(&str, &str)| sample.label(label) == Some(value);
            sample.name == name && labels.iter().all(carries)
        })
    }

    /// Sum over [`Self::matching`]; 0 without any.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // Not f64::sum, whose sum of nothing is -0.
        let values = self.matching(name, labels).map(|sample| sample.value);
        values.fold(0.0, |sum, value| sum + value)
    }

    /// The value of the only sample of this name and these labels, or of the first.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(name, labels)
            .next()
            .map(|sample| sample.value)
    }
}

impl Sample {
    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `name{label="value",…} value [timestamp]`.
    fn parse(line: &str) -> Option<Self> {
        let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = parse_labels(inside, &mut labels)?;
        }
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            name: name.to_owned(),
            labels,
            value,
        })
    }
}

/// Reads labels up to the closing brace; what follows is the answer.
fn parse_labels<'a>(text: &'a str, labels: &mut Vec<(String, String)>) -> Option<&'a str> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, after) = parse_value(quoted)?;
        labels.push((name.trim().to_owned(), value));
        rest = after;
    }
}

/// Reads a value up to its closing quote, undoing `\\`, `\"` and `\n`.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP weft_requests_total Requests by how they ended.
# TYPE weft_requests_total counter
weft_requests_total{service="shop/cart:80",status="200",grpc_status="",tls="mutual"} 3
weft_requests_total{service="shop/cart:80",status="500",grpc_status="",tls="mutual"} 1
weft_requests_total{service="shop/web:80",status="200",tls="none"} 7 1700000000000

weft_config_age_seconds 1.5
weft_odd{text="a \"b\", {c}=\\ \n",} 2
"#;

    /// Samples of the page above are whole numbers.
    fn whole(value: f64) -> u64 {
        value.round() as u64
    }

    #[test]
    fn samples_are_found_by_labels() {
        let metrics = Metrics::parse(PAGE);
        let cart = ("service", "shop/cart:80");
        assert_eq!(whole(metrics.sum("weft_requests_total", &[cart])), 4);
        let of_500 = [cart, ("status", "500")];
        assert_eq!(whole(metrics.sum("weft_requests_total", &of_500)), 1);
        assert_eq!(whole(metrics.sum("weft_requests_total", &[])), 11);
        assert_eq!(metrics.value("weft_config_age_seconds", &[]), Some(1.5));
        assert_eq!(metrics.value("weft_config_age", &[]), None);
        assert!(metrics.sum("weft_requests", &[]).is_sign_positive());
    }

    #[test]
    fn escapes_are_undone() {
        let metrics = Metrics::parse(PAGE);
        let sample = metrics
            .matching("weft_odd", &[])
            .next()
            .expect("the sample");
        assert_eq!(sample.label("text"), Some("a \"b\", {c}=\\ \n"));
        assert_eq!(whole(sample.value), 2);
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        for page in ["", "\n\n", "name", "name{a=\"b\"", "name{a=\"b\"} x", "{} "] {
            assert_eq!(Metrics::parse(page), Metrics::default(), "{page:?}");
        }
        let huge = Metrics::parse("a +Inf\nb NaN\n");
        assert_eq!(huge.value("a", &[]), Some(f64::INFINITY));
    }
}
