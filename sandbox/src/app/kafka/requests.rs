//! Which requests there are, and how both sides begin them.

use super::wire::{Malformed, Reader, Writer};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Produce,
    Fetch,
    ListOffsets,
    Metadata,
    FindCoordinator,
    /// Which requests there are.
    Versions,
    InitProducerId,
}

/// Number, and the first and last version that brokers here know.
pub(super) const APIS: [(Api, i16, i16, i16); 7] = [
    (Api::Produce, 0, 3, 7),
    (Api::Fetch, 1, 4, 6),
    (Api::ListOffsets, 2, 1, 2),
    (Api::Metadata, 3, 1, 5),
    (Api::FindCoordinator, 10, 0, 1),
    (Api::Versions, 18, 0, 3),
    (Api::InitProducerId, 22, 0, 1),
];

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) api: Api,
    pub(super) version: i16,
    /// Stands in the answer again.
    pub(super) correlation: i32,
}

impl Head {
    /// What nobody here knows, a client that has asked which there are does not send.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let number = reader.i16()?;
        let version = reader.i16()?;
        let correlation = reader.i32()?;
        let mut apis = APIS.iter();
        let (api, _, first, last) = apis.find(|it| it.1 == number).ok_or(Malformed)?;
        // How a client's question for versions is answered is settled for versions of the future.
        if *api != Api::Versions && !(*first..=*last).contains(&version) {
            return Err(Malformed);
        }
        reader.text()?;
        Ok(Self {
            api: *api,
            version,
            correlation,
        })
    }

    pub(super) fn write(self, writer: &mut Writer) {
        let number = APIS
            .iter()
            .find(|it| it.0 == self.api)
            .map_or(-1, |it| it.1);
        writer.i16(number).i16(self.version).i32(self.correlation);
        writer.text("weft");
        if self.is_tagged() {
            writer.unsigned(0);
        }
    }

    /// Whether the head ends with tagged fields.
    fn is_tagged(self) -> bool {
        self.api == Api::Versions && self.version >= 3
    }
}

impl Api {
    /// The version that the client here speaks.
    pub(super) fn newest(self) -> i16 {
        APIS.iter().find(|it| it.0 == self).map_or(0, |it| it.3)
    }
}
