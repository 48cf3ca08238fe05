//! Arbitrary bytes, taken for whatever is needed.

/// Reads values off the front of arbitrary bytes; zeros when there are no more.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub fn number(&mut self) -> u64 {
        let mut number = [0; 8];
        let bytes = self.bytes(8);
        number[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(number)
    }

    /// As many bytes as the first one says.
    pub fn short(&mut self) -> &'a [u8] {
        let count = self.byte();
        self.bytes(count.into())
    }

    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.short()).into_owned()
    }

    /// Changes `original` as the rest of the input says: three bytes for each change.
    pub fn damage(&mut self, original: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        while !self.is_empty() {
            let (how, place, value) = (self.byte(), self.byte(), self.byte());
            // The upper half of `how` reaches places above 255.
            let at = usize::from(how >> 4) * 256 + usize::from(place);
            let at = at % (bytes.len() + 1);
            match how & 0xf {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, value),
                2 => bytes.extend_from_slice(self.short()),
                3 => bytes.rotate_left(at),
                4 if at < bytes.len() => drop(bytes.remove(at)),
                5 if at < bytes.len() => bytes[at] = value,
                6 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(value),
                _ if at < bytes.len() => bytes[at] ^= value,
                _ => {}
            }
        }
        bytes
    }
}
