//! Where the backends of a split lie on the line of hashes.

use weft_proxy::policy::WeightedBackend;

/// The first and the last point of every backend, in their order; `None` for one that no point falls
/// on. This is [`weft_proxy::resilience::split::choose`] read backwards.
pub(super) fn ranges(backends: &[WeightedBackend]) -> Vec<Option<(u64, u64)>> {
    const POINTS: u128 = 1 << 64;
    let total: u128 = backends.iter().map(|side| u128::from(side.weight)).sum();
    // The first point at or behind a share of `start` in `total`.
    let first = |start: u128| (start * POINTS).div_ceil(total);
    let mut start = 0;
    let sides = backends.iter();
    sides
        .map(|side| {
            let end = start + u128::from(side.weight);
            let range = (side.weight > 0).then(|| (first(start), first(end) - 1));
            start = end;
            range.map(|(from, to)| (from as u64, to as u64))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_proxy::resilience::split::choose;

    use super::*;

    proptest! {
        #[test]
        fn the_proxy_chooses_as_the_ranges_say(
            weights in prop::collection::vec(prop_oneof![Just(0), 1..4_u32, 1..1_000_000_u32], 1..8),
            points in prop::collection::vec(any::<u64>(), 16),
        ) {
            let backends: Vec<_> = weights
                .iter()
                .enumerate()
                .map(|(backend, &weight)| WeightedBackend::plain(backend, weight))
                .collect();
            let ranges = ranges(&backends);
            let edges = ranges.iter().flatten().flat_map(|&(from, to)| [from, to]);
            for point in points.into_iter().chain(edges).chain([0, u64::MAX]) {
                let holds = |range: &Option<(u64, u64)>| {
                    range.is_some_and(|(from, to)| (from..=to).contains(&point))
                };
                let mine: Vec<_> = (0..ranges.len()).filter(|&at| holds(&ranges[at])).collect();
                prop_assert_eq!(mine, Vec::from_iter(choose(&backends, point)));
            }
        }
    }
}
