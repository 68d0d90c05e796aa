//! How old a connection between sidecars may become.
//!
//! Connections that are never replaced keep traffic where it was when there were fewer endpoints, and
//! whatever was decided when they were made (their certificates, their worker) for ever. So each has
//! an age at which it is left, drawn when it is made: replaced before it ends, and never under a
//! request. The draw keeps connections that were made together from being replaced together. None
//! takes a request once a certificate that it was made with is over: it is replaced before that,
//! while there is time to try again.
//!
//! A pure decision: time and randomness come from the caller, who also does the leaving.

use std::time::Duration;

use tokio::time::Instant;

/// The age that connections between sidecars reach where nobody says another.
pub const DEFAULT_AGE: Duration = Duration::from_secs(3_600);
/// How far the drawn age is from the cap at most, either way, as a share of it.
const JITTER: f64 = 0.1;
/// Which share of the time to the end of a certificate passes before its connections are replaced,
/// at least and at most. Certificates are renewed at about half of their life, and it is half over at
/// most when a connection is made: usually a younger one is there by then.
const SHARE_OF_CERTIFICATE: (f64, f64) = (0.8, 0.9);
/// A connection that has less time than this is not replaced any sooner than at the end.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// At which age connections are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeCap(Option<Duration>);

impl AgeCap {
    /// Connections become as old as they like.
    pub const OFF: Self = Self(None);

    /// About `age`; zero is [`AgeCap::OFF`].
    pub fn about(age: Duration) -> Self {
        Self((!age.is_zero()).then_some(age))
    }

    /// When a connection that is made at `now` is to be replaced; `None` is never. `random` is drawn
    /// evenly from 0 to 1; `not_after` is when the certificates that the connection was made with end,
    /// where there are any. It is never later than that.
    pub fn replace_at(
        self,
        now: Instant,
        random: f64,
        not_after: Option<Instant>,
    ) -> Option<Instant> {
        let drawn = self.0.and_then(|age| {
            let factor = 1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0);
            let age = Duration::try_from_secs_f64(age.as_secs_f64() * factor).ok()?;
            now.checked_add(age)
        });
        let certified = not_after.map(|end| replaced_before(end, now, random));
        drawn.into_iter().chain(certified).min()
    }
}

/// When a connection that may not outlive `end` is replaced.
fn replaced_before(end: Instant, now: Instant, random: f64) -> Instant {
    let left = end.saturating_duration_since(now);
    if left < LAST_MOMENT {
        return end;
    }
    let (least, most) = SHARE_OF_CERTIFICATE;
    now + left.mul_f64(least + (most - least) * random.clamp(0.0, 1.0))
}

impl Default for AgeCap {
    fn default() -> Self {
        Self::about(DEFAULT_AGE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn off_is_never_unless_something_ends() {
        let now = Instant::now();
        let end = now + Duration::from_secs(100);
        let before = Some(now + Duration::from_secs(85));
        for off in [AgeCap::OFF, AgeCap::about(Duration::ZERO)] {
            assert_eq!(off.replace_at(now, 0.5, None), None);
            assert_eq!(off.replace_at(now, 0.5, Some(end)), before);
        }
        let hour = AgeCap::default();
        assert_eq!(hour.replace_at(now, 0.5, Some(end)), before);
        assert_eq!(
            hour.replace_at(now, 0.5, Some(now + 2 * DEFAULT_AGE)),
            hour.replace_at(now, 0.5, None)
        );
        assert_eq!(
            AgeCap::about(Duration::MAX).replace_at(now, 0.5, None),
            None
        );
    }

    proptest! {
        #[test]
        fn no_certificate_is_outlived(
            age in 0_u64..10_000_000, left in 0_u64..10_000_000, random in 0.0..1.0_f64,
        ) {
            let now = Instant::now();
            let end = now + Duration::from_millis(left);
            let cap = AgeCap::about(Duration::from_millis(age));
            let at = cap.replace_at(now, random, Some(end)).expect("it ends");
            prop_assert!(now <= at && at <= end);
            // In time, but not at once: connections that are always replaced carry nothing.
            if age == 0 && left >= 1_000 {
                let share = (at - now).as_secs_f64() * 1_000.0 / left as f64;
                prop_assert!((0.79..=0.91).contains(&share), "{share}");
            }
        }

        #[test]
        fn ages_are_near_the_cap_and_spread(millis in 1_u64..86_400_000, random in 0.0..1.0_f64) {
            let now = Instant::now();
            let age = Duration::from_millis(millis);
            let at = AgeCap::about(age).replace_at(now, random, None).expect("there is a cap");
            let drawn = (at - now).as_secs_f64() / age.as_secs_f64();
            prop_assert!((0.899..=1.101).contains(&drawn), "{drawn}");
            // Who draws more lives longer.
            prop_assert!((drawn - (0.9 + 0.2 * random)).abs() < 0.001, "{drawn} for {random}");
        }
    }
}
