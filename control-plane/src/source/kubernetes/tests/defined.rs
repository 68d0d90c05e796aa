//! What is believed of kinds that may be missing.

use proptest::prelude::*;
use serde_json::json;

use super::super::defined::{MISSES, Presence, served};
use super::super::kind::Kind;
use super::parsed;

#[test]
fn the_most_wanted_version_that_is_served_comes_first() {
    let grants = Kind::ReferenceGrant.defined().unwrap();
    for (versions, expected) in [
        (vec!["v1beta1", "v1"], vec!["v1", "v1beta1"]),
        (vec!["v1beta1"], vec!["v1beta1"]),
        (vec!["v1alpha2"], vec![]),
    ] {
        let versions = versions
            .iter()
            .map(|version| json!({"groupVersion": format!("g/{version}"), "version": version}));
        let versions: Vec<_> = versions.collect();
        let groups = parsed(json!({"groups": [
            {"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]},
            {"name": "gateway.networking.k8s.io", "versions": versions},
        ]}));
        assert_eq!(served(&groups, grants).collect::<Vec<_>>(), expected);
    }
    let none = parsed(json!({"groups": []}));
    assert_eq!(served(&none, grants).count(), 0);
}

proptest! {
    #[test]
    fn what_was_there_is_gone_after_misses_in_a_row(answers in prop::collection::vec(any::<bool>(), 0..40)) {
        let mut presence = Presence::default();
        let (mut is_there, mut row) = (false, 0);
        for there in answers {
            if there {
                presence.there();
                (is_there, row) = (true, 0);
                continue;
            }
            row += 1;
            let gone = !is_there || row >= MISSES;
            prop_assert_eq!(presence.missed(), gone);
            is_there &= !gone;
        }
    }
}
