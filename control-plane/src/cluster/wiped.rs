//! Secrets of the cluster while they are held.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use zeroize::Zeroize as _;

/// A Secret whose content is overwritten when it is dropped. The buffers through which it comes and goes are
/// the client library's, and are given back as they are. Not `Debug`: its content would be in it.
pub(super) struct Wiped(Secret);

impl Wiped {
    /// Other content in the place of what there is.
    pub(super) fn put(&mut self, data: BTreeMap<String, ByteString>) {
        self.wipe();
        self.0.data = Some(data);
    }

    fn wipe(&mut self) {
        for content in self.0.data.iter_mut().flat_map(BTreeMap::values_mut) {
            content.0.zeroize();
        }
    }
}

impl From<Secret> for Wiped {
    fn from(secret: Secret) -> Self {
        Self(secret)
    }
}

impl Deref for Wiped {
    type Target = Secret;

    fn deref(&self) -> &Secret {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut Secret {
        &mut self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.wipe();
    }
}
