//! What was said a moment ago about a token: a command that asks ten times makes one review.
//!
//! Whoever loses a right keeps it for [`ALLOWED`] at most. What nobody could say is not remembered, and no
//! token is: their digests are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use super::{Denied, Verb};

/// How long somebody who may, may without being looked at again.
pub(super) const ALLOWED: Duration = Duration::from_secs(10);
/// How long somebody who may not is told so without being looked at again: a right that was just given
/// counts soon.
pub(super) const DENIED: Duration = Duration::from_secs(2);
/// Answers that are remembered.
pub(super) const MAX_REMEMBERED: usize = 256;

/// Of a token, and what it was for.
pub(super) type Key = ([u8; 32], Verb);

/// Answers, with the moment at which each is forgotten.
#[derive(Default)]
pub(super) struct Recent(HashMap<Key, (Instant, Result<String, Denied>)>);

/// What it is remembered under.
pub(super) fn key(token: &str, verb: Verb) -> Key {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    (sum, verb)
}

impl Recent {
    /// What was said, where that still holds.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Result<String, Denied>> {
        let (until, said) = self.0.get(key)?;
        (now < *until).then(|| said.clone())
    }

    /// Remembers what was said just now.
    pub(super) fn keep(&mut self, key: Key, said: &Result<String, Denied>, now: Instant) {
        let lifetime = match said {
            Ok(_) => ALLOWED,
            Err(Denied::Unavailable(_)) => return,
            Err(_) => DENIED,
        };
        self.0.retain(|_, (until, _)| now < *until);
        // Where so many come at once, the others are looked at each time.
        if self.0.len() < MAX_REMEMBERED || self.0.contains_key(&key) {
            self.0.insert(key, (now + lifetime, said.clone()));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
