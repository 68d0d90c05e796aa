//! A small mutator, so that replayed corpora have teeth without a fuzzer. The same seed makes the same
//! bytes.

/// Longest result.
const MAX_LEN: usize = 8 * 1024;
/// Changes to one input, at most.
const MAX_CHANGES: u64 = 6;
/// What readers of bytes decide by.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"/",
    b",",
    b"0",
    b"-1",
    b"\xff",
    b"\xff\x01",
    b"\x7f",
    b"\x80",
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
    b"content-length: 3\r\n",
    b"transfer-encoding: chunked\r\n",
    b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: x\r\n",
    b"expect: 100-continue\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"18446744073709551616",
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"---\n",
    b"&a *a",
    b"!!",
    b"{}",
    b"[]",
    b"null",
];

/// Numbers from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// A mutator that begins with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// One of `corpus` with some changes.
    ///
    /// # Panics
    /// Where the corpus is empty.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        assert!(!corpus.is_empty(), "there is something to change");
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.number() % MAX_CHANGES {
            self.change(&mut bytes, corpus);
        }
        bytes.truncate(MAX_LEN);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        match self.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 if at < bytes.len() => bytes[at] = self.number() as u8,
            3 => {
                let end = (at + self.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + self.below(64)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                self.insert(bytes, &again);
            }
            5 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let token = TOKENS[self.below(TOKENS.len())];
                self.insert(bytes, token);
            }
        }
    }

    fn insert(&mut self, bytes: &mut Vec<u8>, more: &[u8]) {
        let at = self.below(bytes.len() + 1);
        bytes.splice(at..at, more.iter().copied());
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
