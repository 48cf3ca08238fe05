//! Numbers that follow from a seed, the same on every machine.

/// The generator of Steele, Lea and Flood ("Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// An independent stream, named by `what`.
    pub(crate) fn of(seed: u64, what: u64) -> Self {
        let mut chance = Chance(seed ^ what.wrapping_mul(0xd6e8_feb8_6659_fd93));
        chance.next();
        Chance(chance.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Whether something happens that does so in `parts` of 1 000 cases.
    pub(crate) fn per_mille(&mut self, parts: u64) -> bool {
        self.below(1_000) < parts
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            return None;
        }
        from.get(self.below(from.len() as u64) as usize)
    }
}
