//! Quantiles from buckets, as Prometheus' `histogram_quantile` finds them: the value lies in the bucket
//! in which the rank falls, at that share of the bucket's width.

use serde::Serialize;
use weft_proxy::telemetry::BOUNDS_MICROS;
use weft_proxy::telemetry::traffic::Latency;

const MILLI: f64 = 1e3;

/// Where a share of the durations ends, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Quantile {
    /// Interpolated between the bucket's bounds; the last bound where it is beyond it.
    pub(super) millis: f64,
    /// The bucket that it fell into: more than this,
    pub(super) over_millis: f64,
    /// and at most this; `None` beyond the last bound.
    pub(super) up_to_millis: Option<f64>,
}

/// The `share`-quantile, of 0 to 1; `None` of nothing.
pub(super) fn quantile(latency: &Latency, share: f64) -> Option<Quantile> {
    let count = latency.count();
    if count == 0 {
        return None;
    }
    let rank = share * count as f64;
    let mut below = 0;
    for (at, own) in latency.buckets.iter().enumerate() {
        let cumulated = below + own;
        if *own == 0 || (cumulated as f64) < rank {
            below = cumulated;
            continue;
        }
        let lower = at.checked_sub(1).map_or(0, |at| BOUNDS_MICROS[at]) as f64 / MILLI;
        let Some(upper) = BOUNDS_MICROS.get(at).map(|bound| *bound as f64 / MILLI) else {
            return Some(beyond());
        };
        let within = (rank - below as f64) / *own as f64;
        return Some(Quantile {
            millis: lower + (upper - lower) * within.max(0.0),
            over_millis: lower,
            up_to_millis: Some(upper),
        });
    }
    // Rounding may leave the rank above the count.
    Some(beyond())
}

fn beyond() -> Quantile {
    let last = BOUNDS_MICROS[BOUNDS_MICROS.len() - 1] as f64 / MILLI;
    Quantile {
        millis: last,
        over_millis: last,
        up_to_millis: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(micros: &[u64]) -> Latency {
        let mut latency = Latency::default();
        for value in micros {
            latency.buckets[bucket(*value)] += 1;
            latency.sum_micros += value;
        }
        latency
    }

    fn bucket(micros: u64) -> usize {
        BOUNDS_MICROS.partition_point(|bound| *bound < micros)
    }

    fn millis(latency: &Latency, share: f64) -> f64 {
        quantile(latency, share).expect("values").millis
    }

    /// By hand, as Prometheus' documentation of `histogram_quantile` says: linear within the bucket, whose
    /// lower bound is 0 for the first one; beyond the last bound that bound.
    #[test]
    fn known_values() {
        assert_eq!(quantile(&Latency::default(), 0.5), None);
        let one = of(&[700]);
        assert!((millis(&one, 0.5) - 0.75).abs() < 1e-9);
        assert!((millis(&one, 0.99) - 0.995).abs() < 1e-9);
        // 10 in (0, 0.5], 10 in (0.5, 1].
        let two = of(&[[100; 10], [900; 10]].concat());
        assert!((millis(&two, 0.5) - 0.5).abs() < 1e-9);
        assert!((millis(&two, 0.75) - 0.75).abs() < 1e-9);
        assert!((millis(&two, 0.25) - 0.25).abs() < 1e-9);
        let beyond = of(&[31_000_000]);
        let found = quantile(&beyond, 0.5).expect("a value");
        assert!((found.millis - 30_000.0).abs() < 1e-9);
        assert_eq!(found.up_to_millis, None);
    }

    proptest! {
        /// The sorted samples' own quantile lies in the same bucket.
        #[test]
        fn in_the_bucket_of_the_exact_one(
            mut micros in prop::collection::vec(0..40_000_000_u64, 1..300),
            share in 0.01..1.0_f64,
        ) {
            let latency = of(&micros);
            micros.sort_unstable();
            let rank = (share * micros.len() as f64).ceil() as usize;
            let exact = micros[rank.clamp(1, micros.len()) - 1];
            let found = quantile(&latency, share).expect("values");
            let at = bucket(exact);
            let lower = at.checked_sub(1).map_or(0, |at| BOUNDS_MICROS[at]) as f64 / MILLI;
            prop_assert!((found.over_millis - lower).abs() < 1e-9, "{found:?} {exact}");
            prop_assert!(found.millis >= lower);
            if let Some(upper) = found.up_to_millis {
                prop_assert!(found.millis <= upper + 1e-9);
            }
        }
    }
}
