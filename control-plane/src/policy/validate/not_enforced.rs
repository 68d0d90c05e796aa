//! Fields that Weft's resource has and this version does not enforce: asking for one is refused.

use super::findings::Findings;
use crate::policy::spec::TrafficPolicySpec;
use crate::policy::traffic::{BalancerPolicy, Locality};

pub(super) fn check(found: &mut Findings, spec: &TrafficPolicySpec) {
    if let Some(balancer) = &spec.load_balancer {
        if balancer.policy == BalancerPolicy::ConsistentHash {
            found.not_enforced("spec.loadBalancer.policy: ConsistentHash");
        }
        if balancer.slow_start.is_some() {
            found.not_enforced("spec.loadBalancer.slowStart");
        }
        if balancer.locality != Locality::Disabled {
            found.not_enforced("spec.loadBalancer.locality: PreferSameZone");
        }
    }
}
