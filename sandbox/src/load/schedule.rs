//! When requests are due.

use std::time::Duration;

/// When the request of this number is due, from the start: evenly by rate, and later by each pause
/// that is over by then. `pauses` begin again when they are through.
pub(super) fn due(number: u64, rate: f64, pauses: &[(u64, Duration)]) -> Duration {
    let even = Duration::from_secs_f64(number as f64 / rate);
    let round: u64 = pauses.iter().map(|(requests, _)| requests).sum();
    if round == 0 {
        return even;
    }
    let whole: Duration = pauses.iter().map(|(_, pause)| *pause).sum();
    let rounds = u32::try_from(number / round).unwrap_or(u32::MAX);
    let mut left = number % round;
    let mut paused = whole.saturating_mul(rounds);
    for (requests, pause) in pauses {
        if left < *requests {
            break;
        }
        left -= requests;
        paused = paused.saturating_add(*pause);
    }
    even.saturating_add(paused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn pauses_come_between_their_requests() {
        let pauses = [(2, millis(100)), (1, millis(1_000))];
        let due: Vec<_> = (0..8).map(|number| due(number, 1_000.0, &pauses)).collect();
        let wanted = [0, 1, 102, 1_103, 1_104, 1_205, 2_206, 2_207];
        assert_eq!(due, wanted.map(millis));
    }

    #[test]
    fn without_pauses_by_rate_alone() {
        assert_eq!(due(5, 10.0, &[]), millis(500));
        assert_eq!(due(5, 10.0, &[(0, millis(9))]), millis(500));
    }
}
