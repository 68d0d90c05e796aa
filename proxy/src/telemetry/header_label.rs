//! A further label of requests whose values come from one of their headers, as tenants are told apart.
//!
//! Without one configured nothing is looked at. With one, a request costs a look for the header and one in
//! a map that is read without locks; what is not known yet is added behind a lock, until the bound: every
//! further value is `other`, and so is what is longer than [`MAX_VALUE`] or not printable ASCII. The first
//! values that come keep their series. Anybody who may send the header can use up the bound, and so hide
//! whom he wants in `other`, and no more than that.

use std::collections::HashMap;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName};
use arc_swap::ArcSwap;
use metrics::Counter;
use parking_lot::Mutex;

use super::labels::OTHER_PEER;

/// Bytes of a value that is told apart.
pub const MAX_VALUE: usize = 64;

/// Which label, from which header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLabelSettings {
    /// The label's name.
    pub label: Arc<str>,
    /// The header.
    pub header: HeaderName,
    /// So many values have series of their own.
    pub values: usize,
}

/// One value of the label, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelValue(u16);

/// Tells values apart. One per process.
pub(super) struct HeaderLabel {
    settings: HeaderLabelSettings,
    known: ArcSwap<HashMap<Box<[u8]>, LabelValue>>,
    /// By [`LabelValue`], from [`FIRST`] on. Locked by whoever adds a value or makes a series.
    texts: Mutex<Vec<Arc<str>>>,
    /// Values that found no place.
    beyond: Counter,
}

/// What comes after the two that are always there.
const FIRST: u16 = 2;
const ABSENT: LabelValue = LabelValue(0);
const OTHER: LabelValue = LabelValue(1);

impl LabelValue {
    /// For a key: none has two.
    pub(super) fn number(self) -> u16 {
        self.0
    }
}

impl HeaderLabel {
    pub(super) fn new(settings: HeaderLabelSettings, beyond: Counter) -> Self {
        Self {
            settings,
            known: ArcSwap::default(),
            texts: Mutex::default(),
            beyond,
        }
    }

    /// The label's name.
    pub(super) fn label(&self) -> &str {
        &self.settings.label
    }

    /// The value of a request with these headers: the first of them.
    pub(super) fn of(&self, headers: &HeaderMap) -> LabelValue {
        let Some(value) = headers.get(&self.settings.header) else {
            return ABSENT;
        };
        let value = value.as_bytes();
        let known = self.known.load();
        if let Some(found) = known.get(value) {
            return *found;
        }
        if value.is_empty() {
            return ABSENT;
        }
        let is_plain = value.iter().all(|it| (b' '..=b'~').contains(it));
        if value.len() > MAX_VALUE || !is_plain || known.len() >= self.settings.values {
            self.beyond.increment(1);
            return OTHER;
        }
        drop(known);
        self.add(value)
    }

    /// As the label has it: empty where there is none.
    pub(super) fn text(&self, value: LabelValue) -> Arc<str> {
        match value {
            ABSENT => "".into(),
            OTHER => OTHER_PEER.into(),
            LabelValue(number) => {
                let texts = self.texts.lock();
                let text = texts.get(usize::from(number - FIRST));
                text.map_or_else(|| OTHER_PEER.into(), Arc::clone)
            }
        }
    }

    fn add(&self, value: &[u8]) -> LabelValue {
        let mut texts = self.texts.lock();
        let known = self.known.load_full();
        if let Some(found) = known.get(value) {
            return *found;
        }
        if known.len() >= self.settings.values {
            self.beyond.increment(1);
            return OTHER;
        }
        // The bound is far below.
        let number = u16::try_from(texts.len()).unwrap_or(u16::MAX - FIRST) + FIRST;
        let added = LabelValue(number);
        texts.push(String::from_utf8_lossy(value).into());
        let mut more = HashMap::clone(&known);
        more.insert(value.into(), added);
        self.known.store(Arc::new(more));
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    fn label(values: usize) -> HeaderLabel {
        let settings = HeaderLabelSettings {
            label: "tenant".into(),
            header: HeaderName::from_static("x-tenant"),
            values,
        };
        HeaderLabel::new(settings, Counter::noop())
    }

    fn of(label: &HeaderLabel, value: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(value).unwrap();
        headers.insert("x-tenant", value);
        label.text(label.of(&headers)).to_string()
    }

    #[test]
    fn the_first_values_have_their_own_and_all_others_share_one() {
        let label = label(2);
        assert_eq!(label.of(&HeaderMap::new()), ABSENT);
        assert_eq!(&*label.text(ABSENT), "");
        assert_eq!(of(&label, b""), "");
        for _ in 0..2 {
            assert_eq!(of(&label, b"acme"), "acme");
            assert_eq!(of(&label, &[b'a'; MAX_VALUE + 1]), "other");
            assert_eq!(of(&label, b"caf\xc3\xa9"), "other");
            assert_eq!(of(&label, b"a\tb"), "other");
            assert_eq!(of(&label, b"other"), "other");
            assert_eq!(of(&label, b"third"), "other");
        }
        assert_eq!(label.known.load().len(), 2);
    }

    /// However many threads meet new values at once, each has one place, and the bound holds.
    #[test]
    fn threads_agree_on_values() {
        let label = label(100);
        let numbers: Vec<Vec<String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let values = 0..200_u32;
                        values
                            .map(|number| of(&label, number.to_string().as_bytes()))
                            .collect()
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| thread.join().unwrap());
            ended.collect()
        });
        assert_eq!(label.known.load().len(), 100);
        for told in numbers {
            for (number, text) in told.iter().enumerate() {
                assert!(
                    *text == number.to_string() || text == "other",
                    "{number}: {text}"
                );
            }
        }
        let kept =
            (0..200_u32).filter(|number| of(&label, number.to_string().as_bytes()) != "other");
        assert_eq!(kept.count(), 100);
    }
}
