//! The memory of a guest that hibernates: what differs from what its module starts with, in a buffer of its own.
//!
//! A Rust guest that waits has touched half a dozen pages and written a few hundred bytes that are its own; the rest is data
//! of its module, the same for all of its processes, and zeros. So its pages go back to the kernel, and it is
//! written anew before the guest runs again. The idea is Erlang's: `erlang:hibernate/3` keeps of a process that waits
//! what it needs to wake.
//!
//! ```text
//! memory:  │ stack …│ data of the module │ heap …│      packed:  offset, words, bytes │ offset, words, bytes │ …
//!              ▲               ▲             ▲                   (words that are not the image's, or zero
//!              └──── compared with the image ┘                    where that has none)
//! ```

use std::ops::Range;

use wasmparser::{BinaryReaderError, Chunk, ConstExpr, DataKind, Operator, Parser, Payload};

use super::slab;

/// Bytes of touched pages of a memory that is packed; a guest with more keeps them. Comparing these takes 0.2 ms.
const TOUCHED_BYTES_MAX: usize = 1 << 20;
/// Bytes of a memory that is packed: the kernel looks through all of its pages for those that were touched.
const MEMORY_BYTES_MAX: usize = 64 << 20;
/// A memory is packed if that takes at most one in so many bytes of its pages.
const SAVES: usize = 2;
/// Bytes that are compared at once.
const WORD: usize = 8;
/// What stands before the bytes of a run: its offset and its length, in words.
const HEAD: usize = 8;
/// Words that are as in the image, between two that are not, for which no new run begins: a head is as long.
const GAP: usize = HEAD / WORD;

/// What a module writes into a memory before it runs. Whatever it is, what is packed against it comes back: it makes
/// what is packed small, no more.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Image {
    /// In whole words.
    start: usize,
    bytes: Box<[u8]>,
}

impl Image {
    /// The data of a module that lies at addresses which the module names. What cannot be read is left out.
    pub(super) fn of(module: &[u8]) -> Self {
        let found = data(module).unwrap_or_default();
        let start = found.iter().map(|(at, _)| *at).min().unwrap_or(0);
        let start = start - start % WORD;
        let end = found.iter().map(|(at, data)| at + data.len()).max();
        let end = end.unwrap_or(start).next_multiple_of(WORD);
        // What lies far apart is no image that takes no more than the module does, which is counted.
        if end - start > TOUCHED_BYTES_MAX.min(module.len()) {
            return Self::default();
        }
        let mut bytes = vec![0; end - start].into_boxed_slice();
        // In the order of the module: a later one is written over an earlier one.
        for (at, data) in found {
            bytes[at - start..][..data.len()].copy_from_slice(data);
        }
        Self { start, bytes }
    }

    fn word(&self, at: usize) -> [u8; WORD] {
        let word = at
            .checked_sub(self.start)
            .and_then(|at| self.bytes.get(at..at + WORD));
        word.map_or([0; WORD], |word| word.try_into().expect("of that length"))
    }
}

/// The data at addresses that the module names.
fn data(module: &[u8]) -> Result<Vec<(usize, &[u8])>, BinaryReaderError> {
    let (mut parser, mut rest, mut found) = (Parser::new(0), module, Vec::new());
    loop {
        let Chunk::Parsed { consumed, payload } = parser.parse(rest, true)? else {
            return Ok(found);
        };
        rest = &rest[consumed..];
        match payload {
            Payload::CodeSectionStart { size, .. } => {
                parser.skip_section();
                rest = rest.get(size as usize..).unwrap_or_default();
            }
            Payload::DataSection(all) => {
                for data in all {
                    let data = data?;
                    if let DataKind::Active {
                        memory_index: 0,
                        offset_expr,
                    } = data.kind
                        && let Some(at) = constant(&offset_expr)
                    {
                        found.push((at, data.data));
                    }
                }
            }
            Payload::End(_) => return Ok(found),
            _ => {}
        }
    }
}

fn constant(offset: &ConstExpr<'_>) -> Option<usize> {
    let mut operators = offset.get_operators_reader();
    let Ok(Operator::I32Const { value }) = operators.read() else {
        return None;
    };
    // In a module that is valid the end follows, or a computation that nobody needs here.
    matches!(operators.read(), Ok(Operator::End)).then(|| value.cast_unsigned() as usize)
}

/// A memory whose pages the kernel has back, until [`Packed::unpack`]. What is its own lies on the heap, as messages do.
#[derive(Debug)]
pub(super) struct Packed {
    runs: Box<[u8]>,
    /// Where it had pages.
    stretches: Box<[Range<u32>]>,
}

impl Packed {
    /// Packs a memory that lies in a slot of this program's own; from here on it is not to be looked at. None: it is as it was,
    /// since there is nothing to be gained, or the kernel cannot say which pages it has.
    pub(super) fn pack<'a>(memory: &mut [u8], image: impl FnOnce() -> &'a Image) -> Option<Self> {
        if memory.len() > MEMORY_BYTES_MAX {
            return None;
        }
        let (mut stretches, mut pages) = (Vec::new(), 0);
        let told = slab::touched(memory, TOUCHED_BYTES_MAX, |stretch| {
            pages += stretch.len();
            // No memory that is packed is as long as that.
            let short = |at| u32::try_from(at).expect("below 64 MiB");
            stretches.push(short(stretch.start)..short(stretch.end));
            pages <= TOUCHED_BYTES_MAX
        });
        if !told || pages == 0 {
            return None;
        }
        let (mut runs, image) = (Vec::new(), image());
        for stretch in &stretches {
            append(&mut runs, memory, wide(stretch), image);
            if runs.len() > pages / SAVES {
                return None;
            }
        }
        let all = wide(stretches.first()?).start..wide(stretches.last()?).end;
        slab::give_back(&mut memory[all]).then(|| Self {
            runs: runs.into_boxed_slice(),
            stretches: stretches.into_boxed_slice(),
        })
    }

    /// Makes a memory what it was when it was packed against this image.
    pub(super) fn unpack(self, memory: &mut [u8], image: &Image) {
        for stretch in self.stretches.iter().map(wide) {
            let start = stretch.start.max(image.start);
            let end = stretch.end.min(image.start + image.bytes.len());
            if start < end {
                let bytes = &image.bytes[start - image.start..end - image.start];
                memory[start..end].copy_from_slice(bytes);
            }
        }
        let mut rest = &*self.runs;
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD>() {
            let number = u64::from_le_bytes(*head);
            let (at, words) = ((number >> 32) as usize, (number & 0xffff_ffff) as usize);
            let (bytes, behind) = behind.split_at(words * WORD);
            memory[at * WORD..][..bytes.len()].copy_from_slice(bytes);
            rest = behind;
        }
    }
}

fn wide(stretch: &Range<u32>) -> Range<usize> {
    stretch.start as usize..stretch.end as usize
}

/// Appends the runs of a stretch of whole words.
fn append(runs: &mut Vec<u8>, memory: &[u8], stretch: Range<usize>, image: &Image) {
    let same = |at: usize| memory[at..at + WORD] == image.word(at);
    let mut at = stretch.start;
    while at < stretch.end {
        if same(at) {
            at += WORD;
            continue;
        }
        let start = at;
        let mut end = at + WORD;
        at = end;
        while at < stretch.end && at - end <= GAP * WORD {
            at += WORD;
            if !same(at - WORD) {
                end = at;
            }
        }
        let number = ((start / WORD) as u64) << 32 | ((end - start) / WORD) as u64;
        runs.extend_from_slice(&number.to_le_bytes());
        runs.extend_from_slice(&memory[start..end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::slab::testing;

    const KIB: usize = 1 << 10;

    fn image(text: &str) -> Image {
        Image::of(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn an_image_is_the_data_that_lies_at_named_addresses() {
        let image = image(
            r#"(module (memory 1) (global $at i32 (i32.const 900))
                (data (i32.const 21) "abcdef")
                (data "passive")
                (data (i32.const 40) "end")
                (data (i32.const 22) "X")
                (data (global.get $at) "computed")
                (data (i32.add (i32.const 1) (i32.const 2)) "computed"))"#,
        );
        assert_eq!((image.start, image.bytes.len()), (16, 32));
        assert_eq!(&image.bytes[5..11], b"aXcdef");
        assert_eq!(&image.word(40), b"end\0\0\0\0\0");
        assert_eq!([image.word(8), image.word(48)], [[0; 8]; 2]);
        assert_eq!(Image::of(b"\0asm\x01\0\0\0\x0b\xff"), Image::default());
        assert_eq!(Image::of(b"nothing"), Image::default());
        for far in [r#"(i32.const -9) "b""#, r#"(i32.const 5000) "b""#] {
            let text = format!(r#"(module (memory 1) (data (i32.const 0) "a") (data {far}))"#);
            assert_eq!(
                self::image(&text),
                Image::default(),
                "more than the module has"
            );
        }
        let code =
            r#"(module (memory 1) (func (nop)) (func (nop)) (data (i32.const 8) "behind code"))"#;
        assert_eq!(&self::image(code).bytes[..11], b"behind code");
    }

    /// A memory that holds an image, and what is written over it.
    fn memory(image: &Image, write: impl FnOnce(&mut [u8])) -> testing::Memory {
        let mut memory = testing::memory(256 * KIB);
        let bytes = memory.bytes();
        if !image.bytes.is_empty() {
            bytes[image.start..][..image.bytes.len()].copy_from_slice(&image.bytes);
        }
        write(bytes);
        memory
    }

    #[test]
    fn what_was_packed_comes_back_and_takes_no_page_meanwhile() {
        let mut image = Image {
            start: 4088,
            bytes: vec![0; 66_000].into(),
        };
        image.bytes[2..40].fill(0xab);
        image.bytes[65_900..].fill(0xcd);
        // A generator of Marsaglia's (xorshift64); any numbers do.
        let mut state = 7u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        for round in 0..200 {
            let mut memory = memory(&image, |bytes| {
                for _ in 0..random(60) {
                    let at = random(bytes.len());
                    let end = bytes.len().min(at + random(40));
                    bytes[at..end].fill(random(256) as u8);
                }
                // Also over the image, and at both ends.
                bytes[4096 + random(20)] = random(256) as u8;
                bytes[0] = 1;
                *bytes.last_mut().unwrap() = round;
            });
            let before = memory.bytes().to_vec();
            let Some(packed) = Packed::pack(memory.bytes(), || &image) else {
                assert!(!testing::can_tell(), "round {round}");
                return;
            };
            let none = slab::touched(memory.bytes(), 1, |pages| panic!("{pages:?}"));
            assert!(none);
            packed.unpack(memory.bytes(), &image);
            assert!(memory.bytes() == before, "round {round}");
        }
    }

    #[test]
    fn an_image_that_is_wrong_does_no_harm() {
        // It ends behind the memory, and the memory holds nothing of it.
        let image = Image {
            start: 256 * KIB - 16,
            bytes: vec![7; 4096].into(),
        };
        let mut memory = testing::memory(256 * KIB);
        memory.bytes()[5] = 1;
        let before = memory.bytes().to_vec();
        if let Some(packed) = Packed::pack(memory.bytes(), || &image) {
            packed.unpack(memory.bytes(), &image);
        }
        assert!(memory.bytes() == before);
        memory.bytes()[256 * KIB - 1] = 2;
        let before = memory.bytes().to_vec();
        if let Some(packed) = Packed::pack(memory.bytes(), || &image) {
            packed.unpack(memory.bytes(), &image);
        }
        assert!(memory.bytes() == before);
    }

    #[test]
    fn what_saves_less_than_half_stays_as_it_is() {
        let image = Image::default();
        let every = |words: usize| {
            let mut memory = memory(&image, |bytes| {
                for word in bytes[..64 * KIB].chunks_mut(WORD).step_by(words) {
                    word.fill(3);
                }
            });
            let before = memory.bytes().to_vec();
            let packed = Packed::pack(memory.bytes(), || &image).is_some();
            assert_eq!(memory.bytes() == before, !packed);
            packed
        };
        // A run of one word takes two.
        assert_eq!([every(1), every(3)], [false; 2]);
        assert_eq!([every(5), every(64)], [testing::can_tell(); 2]);
        // Nothing was touched, so there is nothing to be had.
        assert!(Packed::pack(testing::memory(64 * KIB).bytes(), || &image).is_none());
    }

    #[test]
    fn a_memory_of_which_much_was_touched_stays_as_it_is() {
        let image = Image::default();
        let packs = |touched: usize| {
            let mut memory = testing::memory(4 << 20);
            for page in memory.bytes()[..touched].chunks_mut(4 * KIB) {
                page[0] = 1;
            }
            Packed::pack(memory.bytes(), || &image).is_some()
        };
        assert_eq!(packs(TOUCHED_BYTES_MAX), testing::can_tell());
        let mut long = testing::memory(MEMORY_BYTES_MAX + 64 * KIB);
        long.bytes()[0] = 1;
        assert!(Packed::pack(long.bytes(), || &image).is_none());
        assert!(!packs(TOUCHED_BYTES_MAX + 4 * KIB));
    }
}
