//! Which worker serves an HTTP connection: a few are kept together, many are spread.
//!
//! A worker with few connections sleeps between their requests, and whoever sends it something pays for
//! waking it: with four connections at each of two workers a request costs a fifth more than with eight
//! at one. So each worker in turn gets a few before the next gets any, and further ones go to whichever
//! has the fewest. A worker that has much to do already gets none as long as another has time. One that
//! cannot keep up has some of its connections made anew ([`relief`]), as HTTP lets a server ask at any
//! time, without a request being lost; and as long as it cannot, all are spread.
//!
//! Connections that carry bytes are no matter of this: nobody can be asked to make them anew, and one
//! alone may be all that a worker can do. They stay where they were accepted, at the worker with the
//! fewest.
//!
//! Pure: without shares all are spread evenly.

/// How many HTTP connections a worker gets before the next one gets any.
pub const TOGETHER: usize = 8;
/// A worker that executes for this share of the time has much to do.
pub const BUSY: f64 = 0.5;
/// One that does for this share can hardly keep up.
pub const TOO_BUSY: f64 = 0.8;

/// To what part of itself the load of the busiest worker is to fall, at least, where one connection moves.
const WORTHWHILE: f64 = 0.9;

/// What a worker has to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// HTTP connections.
    pub connections: usize,
    /// For which share of the last while it executed, from 0 to 1; none where that cannot be known.
    pub share: Option<f64>,
}

impl Load {
    fn is_below(&self, share: f64) -> bool {
        self.share.is_some_and(|own| own < share)
    }
}

/// The worker for one more connection; `loads` is not empty. A worker gets `together` before the next one
/// gets any.
pub fn place(loads: &[Load], together: usize) -> usize {
    // Whoever is sent away from a worker that cannot keep up is not to do the same to the next.
    let all_keep_up = loads.iter().all(|load| load.is_below(TOO_BUSY));
    if all_keep_up {
        let has_room = |load: &Load| load.connections < together && load.is_below(BUSY);
        if let Some(first) = loads.iter().position(has_room) {
            return first;
        }
    }
    fewest(loads, |load| load.is_below(BUSY))
        .or_else(|| fewest(loads, |_| true))
        .unwrap_or_default()
}

/// The worker that is to lose connections to others, and how many: as many as make it and the one with
/// the least to do even, if all are alike. None where nobody needs it, or nobody could take them.
pub fn relief(loads: &[Load]) -> Option<(usize, usize)> {
    let mut shares = Vec::new();
    for (worker, load) in loads.iter().enumerate() {
        shares.push((worker, load.share?));
    }
    let (busiest, most) = shares.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let (_, least) = shares.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let connections = loads[busiest].connections;
    if most < TOO_BUSY || least >= BUSY || connections == 0 {
        return None;
    }
    let each = most / connections as f64;
    let surplus = ((most - least) / (2.0 * each)) as usize;
    if surplus > 0 {
        return Some((busiest, surplus));
    }
    // One alone, where it does not just take its worker's place.
    (least + each < most * WORTHWHILE).then_some((busiest, 1))
}

/// Of those that `may`, the first with the fewest connections.
fn fewest(loads: &[Load], may: impl Fn(&Load) -> bool) -> Option<usize> {
    let candidates = loads.iter().enumerate().filter(|(_, load)| may(load));
    let fewest = candidates.min_by_key(|(_, load)| load.connections);
    fewest.map(|(worker, _)| worker)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn idle(connections: usize) -> Load {
        load(connections, 0.1)
    }

    fn load(connections: usize, share: f64) -> Load {
        let share = Some(share);
        Load { connections, share }
    }

    fn unknown(connections: usize) -> Load {
        let share = None;
        Load { connections, share }
    }

    /// How many each gets of so many that come one after another.
    fn spread(loads: &mut [Load], count: usize) -> Vec<usize> {
        for _ in 0..count {
            loads[place(loads, TOGETHER)].connections += 1;
        }
        loads.iter().map(|load| load.connections).collect()
    }

    #[test]
    fn a_few_are_together_and_many_are_spread() {
        for (count, each) in [
            (1, [1, 0, 0]),
            (8, [8, 0, 0]),
            (9, [8, 1, 0]),
            (24, [8, 8, 8]),
            (25, [9, 8, 8]),
            (300, [100, 100, 100]),
        ] {
            assert_eq!(spread(&mut [idle(0); 3], count), each);
        }
        // A gap is filled first, and where all have some the fewest count.
        assert_eq!(place(&[idle(8), idle(5), idle(0)], TOGETHER), 1);
        assert_eq!(place(&[idle(60), idle(8), idle(9)], TOGETHER), 1);
        assert_eq!(place(&[idle(2), idle(0)], 2), 1);
    }

    #[test]
    fn a_busy_worker_gets_none_while_another_has_time() {
        assert_eq!(place(&[load(1, 0.6), idle(7)], TOGETHER), 1);
        assert_eq!(place(&[load(1, 0.6), idle(70)], TOGETHER), 1);
        assert_eq!(place(&[load(70, 0.6), load(1, 0.9)], TOGETHER), 1);
        assert_eq!(place(&[load(1, 0.6), load(70, 0.9)], TOGETHER), 0);
        // And while one cannot keep up, no other gets many.
        assert_eq!(place(&[load(2, 0.9), load(1, 0.4), idle(0)], TOGETHER), 2);
    }

    #[test]
    fn without_shares_all_are_spread() {
        assert_eq!(spread(&mut [unknown(0); 3], 8), [3, 3, 2]);
        assert_eq!(place(&[idle(3), unknown(2)], TOGETHER), 0);
        assert_eq!(relief(&[load(9, 1.0), unknown(0)]), None);
    }

    #[test]
    fn who_cannot_keep_up_is_relieved() {
        assert_eq!(relief(&[load(8, 1.0), load(0, 0.0)]), Some((0, 4)));
        assert_eq!(relief(&[load(0, 0.0), load(8, 0.8)]), Some((1, 4)));
        assert_eq!(relief(&[load(8, 0.9), load(0, 0.45)]), Some((0, 2)));
        assert_eq!(relief(&[load(2, 0.9), load(3, 0.1)]), Some((0, 1)));
        // It keeps up; nobody has time; there is nothing that could be parted.
        assert_eq!(relief(&[load(8, 0.79), load(0, 0.0)]), None);
        assert_eq!(relief(&[load(8, 1.0), load(0, 0.5)]), None);
        assert_eq!(relief(&[load(1, 1.0), load(0, 0.0)]), None);
        assert_eq!(relief(&[load(8, 1.0)]), None);
        // The other would then be as busy.
        assert_eq!(relief(&[load(2, 0.9), load(1, 0.45)]), None);
        assert_eq!(relief(&[load(2, 0.9), load(3, 0.4)]), None);
    }

    proptest! {
        /// Alike connections that keep a worker too busy end up where all can keep up, and stay there.
        #[test]
        fn alike_connections_settle(
            workers in 2_usize..6, connections in 2_usize..64, one in 0.02..0.45_f64,
        ) {
            let mut held = vec![0_usize; workers];
            let loads = |held: &[usize]| -> Vec<Load> {
                let share = |count: usize| (count as f64 * one).min(1.0);
                held.iter().map(|count| load(*count, share(*count))).collect()
            };
            held[0] = connections;
            let fits = connections.div_ceil(workers) as f64 * one < BUSY;
            let mut quiet = false;
            for _ in 0..40 {
                let now = loads(&held);
                let Some((from, count)) = relief(&now) else {
                    quiet = true;
                    break;
                };
                prop_assert!(count < held[from]);
                // They come again within the second: shares are as they were.
                let mut known = now.clone();
                for _ in 0..count {
                    held[from] -= 1;
                    known[from].connections -= 1;
                    let to = place(&known, TOGETHER);
                    prop_assert_ne!(to, from);
                    held[to] += 1;
                    known[to].connections += 1;
                }
            }
            prop_assert!(quiet, "{held:?}");
            prop_assert_eq!(held.iter().sum::<usize>(), connections);
            if fits {
                prop_assert!(loads(&held).iter().all(|load| load.is_below(TOO_BUSY)), "{held:?}");
            }
        }
    }
}
