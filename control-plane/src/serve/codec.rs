//! The discovery stream's gRPC framing. Messages down arrive here encoded, because most of them are
//! shared by many streams; the generated server would encode each once per stream.

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use weft_proto::discovery::ClientMessage;

/// What a stream has room for at once, in bytes; more is made where a message wants it. There are many
/// streams, and most messages either way are smaller than this.
const BUFFER: usize = 1024;
/// Bytes of messages that wait for each other before they are handed on.
const YIELD: usize = 32 * 1024;

/// Takes encoded messages down, gives decoded ones up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamCodec;

impl Codec for StreamCodec {
    type Encode = Bytes;
    type Decode = ClientMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for StreamCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}

impl Decoder for StreamCodec {
    type Item = ClientMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<ClientMessage>, Status> {
        ClientMessage::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("unreadable message: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}
