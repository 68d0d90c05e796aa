//! What is kept comes back, goes on phase by phase, and is refused where it is not whole.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::identity::document::{BeginError, Document};
use crate::identity::make::Lifetimes;
use crate::identity::rotation::{Kind, Phase};
use crate::identity::signer::verify;
use crate::identity::{Authority, DEFAULT_LEAF_LIFETIME, TrustBundle};

const DOMAIN: &str = "mesh.test";
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    // Whole seconds, as they are written.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn made() -> Document {
    Document::make(DOMAIN, &Lifetimes::default(), HOUR, now()).unwrap()
}

fn begin(document: &Document, kind: Kind) -> Result<Document, BeginError> {
    document.begin(kind, DOMAIN, &Lifetimes::default(), now(), now() + HOUR)
}

/// A document of each phase, in the order of a rotation of the root and then of the issuer.
fn phases() -> Vec<Document> {
    let first = made();
    let published = begin(&first, Kind::Root).unwrap();
    let signs = published.sign(now(), now() + HOUR);
    let extended = signs.extend(now() + 2 * HOUR);
    let ended = extended.retire(HOUR / 2);
    let issuer = begin(&ended, Kind::Issuer).unwrap();
    vec![first, published, signs, extended, ended, issuer]
}

fn authority(document: &Document) -> Authority {
    let text = document.to_text();
    Authority::from_state(text.as_bytes(), DOMAIN, HOUR, now()).unwrap()
}

#[test]
fn every_phase_is_read_as_it_was_written() {
    for (at, document) in phases().iter().enumerate() {
        let text = document.to_text();
        let read = Document::parse(text.as_bytes(), DOMAIN, now()).unwrap();
        assert_eq!(*read.to_text(), *text, "phase {at}");
        assert_eq!(read.generation, at as u64 + 1);
        let rotation = |document: &Document| document.underway.as_ref().map(|it| it.rotation);
        assert_eq!(rotation(&read), rotation(document));
    }
}

#[test]
fn the_first_version_means_that_no_rotation_is_under_way() {
    let text = made().to_text();
    let sections = &text[text.find("-----BEGIN").unwrap()..];
    let read = Document::parse(sections.as_bytes(), DOMAIN, now()).unwrap();
    assert_eq!((read.generation, read.underway.is_none()), (0, true));
    assert_eq!(read.longest_leaf, DEFAULT_LEAF_LIFETIME);
    // And what comes after it is newer.
    let authority = Authority::from_state(sections.as_bytes(), DOMAIN, HOUR, now()).unwrap();
    let next = begin(&read, Kind::Root).unwrap();
    assert!(authority.adopt(next.to_text().as_bytes(), now()).unwrap());
}

#[test]
fn trust_follows_the_phases() {
    let all = phases();
    let roots: Vec<usize> = all.iter().map(|it| it.bundle().roots.len()).collect();
    assert_eq!(roots, [1, 2, 2, 2, 1, 1]);
    // No update for sidecars where the set stays.
    assert_eq!(all[1].bundle(), all[2].bundle());
    assert_ne!(all[0].bundle(), all[4].bundle());
    assert_eq!(all[4].bundle(), all[5].bundle());
    assert_ne!(all[4].signing.issuer, all[5].signing.issuer);
    // A leaf of each phase is good where the phase before, its own and the next one are trusted.
    for pair in all.windows(2) {
        for signs in pair {
            let (leaf, _) = authority(signs).issue_own(now()).unwrap();
            for trusts in pair {
                verify(&leaf, &trusts.bundle().roots, now()).unwrap();
            }
        }
    }
    let (old, _) = authority(&all[1]).issue_own(now()).unwrap();
    assert!(verify(&old, &all[4].bundle().roots, now()).is_err());
}

#[test]
fn no_phase_can_be_skipped() {
    let [_, published, signs, _, _, issuer] = <[Document; 6]>::try_from(phases()).unwrap();
    for (document, kind, phase) in [
        (&published, Kind::Root, Phase::Publish),
        (&signs, Kind::Root, Phase::Sign),
        (&issuer, Kind::Issuer, Phase::Sign),
    ] {
        for wanted in [Kind::Root, Kind::Issuer] {
            let refused = begin(document, wanted).unwrap_err();
            assert_eq!(refused, BeginError::Underway { kind, phase });
            assert!(
                refused
                    .to_string()
                    .contains("no phase of it can be skipped")
            );
        }
    }
    // Ending is for what signs, signing for what is published: all else changes nothing.
    assert!(published.retire(HOUR).is_same(&published));
    assert!(signs.sign(now(), now()).is_same(&signs));
    assert!(made().sign(now(), now()).underway.is_none());
}

#[test]
fn what_is_not_whole_is_refused_without_being_shown() {
    for document in phases() {
        let good = document.to_text().to_string();
        let begin = good.find("-----BEGIN").unwrap();
        let sections: Vec<&str> = good[begin..].split_inclusive("-----\n").collect();
        let sections: Vec<String> = sections.chunks(2).map(<[&str]>::concat).collect();
        let head = &good[..begin];
        let mut cases = vec![
            good[..good.len() / 2].to_owned(),
            good[..good.len() - 40].to_owned(),
            format!("{good}{}", sections[0]),
            format!("{head}{}", sections[..4].concat()).replace("sections: ", "sections: 1"),
            good.replace("generation: ", "generation: x"),
            good.replace("longest-leaf", "shortest-leaf"),
            format!("{head}mystery: 1\n{}", sections.concat()),
            format!("{head}generation: 9\n{}", sections.concat()),
            good.replacen("weft-authority: 2", "weft-authority: 3", 1),
        ];
        for left_out in 0..sections.len() {
            let mut some = sections.clone();
            some.remove(left_out);
            cases.push(format!("{head}{}", some.concat()));
            // Nor in another order.
            let mut turned = sections.clone();
            turned.rotate_left(left_out + 1);
            // Two whole pairs in the other order are two whole pairs.
            if (left_out + 1) % 4 != 0 && left_out + 1 < sections.len() {
                cases.push(format!("{head}{}", turned.concat()));
            }
        }
        let secret = &sections[3].lines().nth(1).unwrap()[..20];
        for case in cases {
            let refused = Document::parse(case.as_bytes(), DOMAIN, now()).expect_err(&case);
            assert!(!refused.contains(secret), "{refused}");
        }
        let foreign = Document::parse(good.as_bytes(), "other.test", now());
        assert!(
            foreign
                .unwrap_err()
                .contains("a mesh keeps its trust domain")
        );
    }
}

#[test]
fn only_newer_state_of_the_same_authority_is_taken() {
    let all = phases();
    let running = authority(&all[1]);
    let before = running.bundle().borrow().clone();
    let take = |document: &Document| running.adopt(document.to_text().as_bytes(), now());
    assert_eq!(take(&all[1]), Ok(false));
    let older = take(&all[0]).unwrap_err().to_string();
    assert!(older.contains("older"), "{older}");
    let mut other = made();
    other.generation = 100;
    let foreign = take(&other).unwrap_err().to_string();
    assert!(foreign.contains("another authority's"), "{foreign}");
    assert_eq!(
        *running.bundle().borrow(),
        before,
        "the last good one stays"
    );
    assert_eq!(take(&all[2]), Ok(true));
    assert!(take(&all[1]).is_err(), "there is no way back");

    // One that was away for the whole of a rotation, and knows the first root only.
    let away = authority(&all[0]);
    assert!(away.adopt(all[5].to_text().as_bytes(), now()).unwrap());
    // A bundle of before is known; one of somebody else is not.
    assert!(all[5].is_known_to(&all[0].bundle()));
    assert!(!all[5].is_known_to(&made().bundle()));
}

#[test]
fn what_was_signed_before_is_known() {
    let all = phases();
    let running = authority(&all[1]);
    assert_eq!(running.stand().former_until, None);
    let at = now();
    running.issue_own(at).unwrap();
    assert_eq!(running.stand().former_until, None);
    running.adopt(all[2].to_text().as_bytes(), at).unwrap();
    assert_eq!(running.stand().former_until, Some(at + HOUR));
    assert_eq!(running.stand().roots.len(), 2);
}

#[test]
fn issuers_live_no_longer_than_their_root() {
    let lifetimes = Lifetimes {
        issuer: 10 * HOUR,
        root: 4 * HOUR,
    };
    let document = Document::make(DOMAIN, &lifetimes, HOUR, now()).unwrap();
    let authority = authority(&document);
    let (leaf, _) = authority.issue_own(now() + 3 * HOUR + HOUR / 2).unwrap();
    assert!(leaf.not_after <= now() + 4 * HOUR);
    assert!(authority.issue_own(now() + 4 * HOUR).is_err());
}

#[test]
fn bundles_are_read_back() {
    let bundle = phases()[1].bundle();
    assert_eq!(
        TrustBundle::from_pem(bundle.to_pem().as_bytes()),
        Some(bundle)
    );
}
