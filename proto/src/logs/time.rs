//! Timestamps without a calendar library.

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

const MILLIS_PER_DAY: u128 = 86_400_000;

/// Writes `time` as RFC 3339 in UTC with milliseconds; before 1970 it is 1970.
///
/// # Errors
/// None: a `String` takes everything.
pub fn write_rfc3339(text: &mut String, time: SystemTime) -> fmt::Result {
    let millis = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let (year, month, day) = date((millis / MILLIS_PER_DAY) as u64);
    let of_day = (millis % MILLIS_PER_DAY) as u64;
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    write!(
        text,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
    )
}

/// The Gregorian date of a day since 1970-01-01.
///
/// Counted in years that begin with March, so that the leap day is the last of its year: then the
/// months' lengths follow the line (153 m + 2) / 5, and eras of 400 years are alike.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const DAYS_FROM_MARCH_0000_TO_1970: u64 = 719_468;
    let days = days + DAYS_FROM_MARCH_0000_TO_1970;
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) = if month_from_march < 10 {
        (month_from_march + 3, 0)
    } else {
        (month_from_march - 9, 1)
    };
    (400 * era + year_of_era + next_year, month, day)
}
