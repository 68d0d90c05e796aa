//! Messages as bytes: a builder, and iterators over what the kernel answered.

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// Messages and attributes start at multiples of this.
const ALIGNMENT: usize = 4;
/// The two upper bits of an attribute's type are flags.
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;

/// Flags of a message's header (`NLM_F_*`, linux/netlink.h).
pub mod flags {
    /// Set on everything that asks the kernel for something.
    pub const REQUEST: u16 = 0x1;
    /// The answer goes on in a further message; ends with `NLMSG_DONE`.
    pub const MULTI: u16 = 0x2;
    /// Answer with an acknowledgement.
    pub const ACK: u16 = 0x4;
    /// The table changed while it was being dumped.
    pub const DUMP_INTERRUPTED: u16 = 0x10;
    /// Answer with all objects.
    pub const DUMP: u16 = 0x300;
    /// Replace the object where there is one.
    pub const REPLACE: u16 = 0x100;
    /// Refuse where there is one already.
    pub const EXCLUSIVE: u16 = 0x200;
    /// Create the object where there is none.
    pub const CREATE: u16 = 0x400;
    /// Add at the end of the list.
    pub const APPEND: u16 = 0x800;
}

/// A request being built. Its sequence number is set when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Message {
    /// A message of type `kind` that opens with the family's own fixed header (`struct
    /// ifinfomsg`, `struct nfgenmsg`, …). [`flags::REQUEST`] is added.
    pub fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]); // length, known in the end
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]); // sequence number and port
        bytes.extend_from_slice(family_header);
        let mut message = Self {
            bytes,
            too_long: false,
        };
        message.align();
        message
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(payload);
        self.close(start);
        self
    }

    /// Appends a string attribute, ended by a NUL as the kernel expects names to be.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
        self
    }

    /// Appends a number in the machine's byte order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a big-endian number.
    pub fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an attribute whose content is attributes, which `fill` appends.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        fill(self);
        self.close(start);
        self
    }

    /// Appends bytes that are no attribute: a fixed header inside a nested attribute.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.align();
        self
    }

    /// The finished datagram. `None` where an attribute is longer than its 16-bit length can say.
    pub(super) fn finish(mut self, sequence: u32, more_flags: u16) -> Option<Vec<u8>> {
        let length = u32::try_from(self.bytes.len()).ok()?;
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | more_flags;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        (!self.too_long).then_some(self.bytes)
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// The length counts the attribute's header but not the padding behind its payload.
    fn close(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.align();
    }

    fn align(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// The bytes are not netlink: a length points outside the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink data")]
pub struct Malformed;

/// One message of a received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Message type.
    pub kind: u16,
    /// See [`flags`].
    pub flags: u16,
    /// Sequence number of the request that this answers.
    pub sequence: u32,
    /// What follows the header: the family's header, then attributes.
    pub payload: &'a [u8],
}

/// Iterates over the messages of a datagram; ends behind the first malformed one.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Over the messages in `datagram`.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    fn split(&mut self) -> Option<Frame<'a>> {
        let header = self.rest.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let frame = Frame {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload: self.rest.get(HEADER..length)?,
        };
        self.rest = after(self.rest, length);
        Some(frame)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.split();
        if frame.is_none() {
            self.rest = &[];
        }
        Some(frame.ok_or(Malformed))
    }
}

/// One attribute of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Attribute type, without the flag bits.
    pub kind: u16,
    /// Its value; for nested attributes, to be read with [`Attributes`].
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as text, up to the first NUL; `None` where it is not UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        let end = self.payload.iter().position(|byte| *byte == 0);
        std::str::from_utf8(&self.payload[..end.unwrap_or(self.payload.len())]).ok()
    }
}

/// Iterates over attributes; ends behind the first malformed one.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Over the attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn split(&mut self) -> Option<Attribute<'a>> {
        let [l0, l1, k0, k1] = *self.rest.first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let attribute = Attribute {
            kind: u16::from_ne_bytes([k0, k1]) & TYPE_MASK,
            payload: self.rest.get(ATTRIBUTE_HEADER..length)?,
        };
        self.rest = after(self.rest, length);
        Some(attribute)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let attribute = self.split();
        if attribute.is_none() {
            self.rest = &[];
        }
        Some(attribute.ok_or(Malformed))
    }
}

/// What follows an item of `length` bytes and its padding, which the last item may lack.
fn after(bytes: &[u8], length: usize) -> &[u8] {
    bytes
        .get(length.next_multiple_of(ALIGNMENT)..)
        .unwrap_or(&[])
}
