//! Shares of two versions as `weft canary set` writes them, and when the last request came to what has no
//! share any more.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::super::common::seen;
use super::{CANARY, CANARY_POLICY, COLOURS, COLOURS_POLICY, PRODUCTS, USERS};
use crate::demo::stage::Stage;
use crate::demo::world::World;

/// How long is looked whether something still comes.
const LOOK: Duration = Duration::from_millis(1_500);
/// How often.
const POLL: Duration = Duration::from_millis(20);

/// A policy that spreads requests over two versions.
#[derive(Debug)]
pub(super) struct Split {
    policy: &'static str,
    yaml: &'static str,
    target: usize,
    backends: [&'static str; 2],
}

/// Users, old and new.
pub(super) static OF_USERS: Split = Split {
    policy: CANARY,
    yaml: CANARY_POLICY,
    target: USERS,
    backends: ["user-service-v1", "user-service-v2"],
};

/// Products, blue and green.
pub(super) static OF_PRODUCTS: Split = Split {
    policy: COLOURS,
    yaml: COLOURS_POLICY,
    target: PRODUCTS,
    backends: ["product-service-blue", "product-service-green"],
};

impl Split {
    /// Puts these weights on disk; when that was.
    pub(super) fn set(&self, stage: &mut Stage, weights: [u32; 2]) -> anyhow::Result<Instant> {
        let yaml = self.weighted(weights)?;
        stage.world.mesh.apply_policy(self.policy, &yaml)?;
        stage.want_split(self.target, weights);
        Ok(Instant::now())
    }

    fn weighted(&self, weights: [u32; 2]) -> anyhow::Result<String> {
        let mut text = self.yaml.to_owned();
        for (backend, weight) in self.backends.iter().zip(weights) {
            let before = format!("{{name: {backend}, weight: ");
            let (head, tail) = text.split_once(&before).context("the split's policy")?;
            let digits = tail.trim_start_matches(|it: char| it.is_ascii_digit());
            text = format!("{head}{before}{weight}{digits}");
        }
        Ok(text)
    }
}

/// When the last request came to the application of `pod`, from `begun` on.
pub(super) async fn last_request(
    world: &World,
    pod: &str,
    begun: Instant,
) -> anyhow::Result<Duration> {
    let (mut count, mut last) = (seen(world, &[pod]).await?, Duration::ZERO);
    while begun.elapsed() < LOOK {
        tokio::time::sleep(POLL).await;
        let now = seen(world, &[pod]).await?;
        if now > count {
            (count, last) = (now, begun.elapsed());
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_written_and_nothing_else() {
        let text = OF_USERS.weighted([100, 0]).expect("a policy");
        assert!(
            text.contains("{name: user-service-v1, weight: 100}"),
            "{text}"
        );
        assert!(
            text.contains("{name: user-service-v2, weight: 0}"),
            "{text}"
        );
        assert_eq!(
            OF_USERS.weighted([90, 10]).expect("a policy"),
            CANARY_POLICY
        );
        let text = OF_PRODUCTS.weighted([0, 100]).expect("a policy");
        assert!(
            text.contains("{name: product-service-green, weight: 100, matches:"),
            "{text}"
        );
        assert_eq!(
            OF_PRODUCTS.weighted([100, 0]).expect("a policy"),
            COLOURS_POLICY
        );
    }
}
