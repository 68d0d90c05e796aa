//! Numbers for people.

use std::time::Duration;

/// `12,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits and a unit: `0.62 ms`, `12.3 ms`, `340 ms`, `1.20 s`.
pub(super) fn short(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    match millis {
        ..9.995 => format!("{millis:.2} ms"),
        ..99.95 => format!("{millis:.1} ms"),
        ..999.5 => format!("{millis:.0} ms"),
        _ => format!("{:.2} s", millis / 1000.0),
    }
}

/// `100%` where it is, else `99.98%`: a share that is not whole never reads as if it were.
pub(crate) fn share(percent: f64) -> String {
    if percent >= 100.0 {
        return "100%".to_owned();
    }
    format!("{:.2}%", percent.min(99.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let numbers = [0, 999, 1_000, 12_345, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "12,345", "1,234,567"]);
        let times = [0, 620, 9_999, 12_345, 99_960, 340_000, 999_600, 1_200_000];
        let times = times.map(|micros| short(Duration::from_micros(micros)));
        let expected = [
            "0.00 ms", "0.62 ms", "10.0 ms", "12.3 ms", "100 ms", "340 ms", "1.00 s", "1.20 s",
        ];
        assert_eq!(times, expected);
        assert_eq!(share(100.0), "100%");
        assert_eq!(share(99.999), "99.99%");
        assert_eq!(share(0.0), "0.00%");
    }
}
