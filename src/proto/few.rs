//! Collections of which most hold one thing at the most, and need no memory of their own for that.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;

/// Numbers, oldest first, equal if they are the same however they came to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Numbers {
    /// There is none.
    #[default]
    None,
    /// There is one.
    One(u64),
    /// Two at least.
    More(VecDeque<u64>),
}

impl Numbers {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Numbers::None)
    }

    /// Appends one.
    pub fn push(&mut self, number: u64) {
        match self {
            Numbers::None => *self = Numbers::One(number),
            Numbers::One(first) => *self = Numbers::More(VecDeque::from([*first, number])),
            Numbers::More(all) => all.push_back(number),
        }
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<u64> {
        match self {
            Numbers::None => None,
            Numbers::One(only) => {
                let only = *only;
                *self = Numbers::None;
                Some(only)
            }
            Numbers::More(_) => self.take_at(0),
        }
    }

    /// Takes a number out; `false` if it is not among them.
    pub fn take(&mut self, number: u64) -> bool {
        match self {
            Numbers::One(only) if *only == number => self.pop().is_some(),
            Numbers::None | Numbers::One(_) => false,
            Numbers::More(all) => {
                let at = all.iter().position(|other| *other == number);
                at.and_then(|at| self.take_at(at)).is_some()
            }
        }
    }

    /// Of several.
    fn take_at(&mut self, at: usize) -> Option<u64> {
        let Numbers::More(all) = self else {
            return None;
        };
        let taken = all.remove(at);
        if all.len() == 1 {
            *self = Numbers::One(all[0]);
        }
        taken
    }
}

/// Entries by key, in order. One needs no memory elsewhere, since most processes have one link at the most. Once there
/// were two it is a tree, whose values lie elsewhere, since the smallest has room for eleven.
#[derive(Debug, Clone)]
pub(crate) enum Few<K, V> {
    One(Option<(K, V)>),
    More(BTreeMap<K, Box<V>>),
}

impl<K: Ord + Copy, V> Few<K, V> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Few::One(one) => usize::from(one.is_some()),
            Few::More(more) => more.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Few::One(Some((only, value))) if *only == *key => Some(value),
            Few::One(_) => None,
            Few::More(more) => more.get(key).map(Box::as_ref),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Few::One(Some((only, value))) if *only == *key => Some(value),
            Few::One(_) => None,
            Few::More(more) => more.get_mut(key).map(Box::as_mut),
        }
    }

    /// The value of a key, which is entered if it is not there.
    pub(crate) fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let is_full = |one: &Option<(K, V)>| one.as_ref().is_some_and(|(only, _)| *only != key);
        if let Few::One(one) = self
            && is_full(one)
        {
            let first = one.take().map(|(only, value)| (only, Box::new(value)));
            *self = Few::More(first.into_iter().collect());
        }
        match self {
            Few::One(one) => &mut one.get_or_insert_with(|| (key, V::default())).1,
            Few::More(more) => more.entry(key).or_default(),
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Few::One(one) => {
                let taken = one.take_if(|(only, _)| *only == *key);
                taken.map(|(_, value)| value)
            }
            Few::More(more) => more.remove(key).map(|value| *value),
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        match self {
            Few::One(one) => {
                if one.as_ref().is_some_and(|(only, _)| !keep(only)) {
                    *one = None;
                }
            }
            Few::More(more) => more.retain(|key, _| keep(key)),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (one, more) = match self {
            Few::One(one) => (one.as_ref(), None),
            Few::More(more) => (None, Some(more)),
        };
        let one = one.map(|(key, value)| (key, value));
        let more = more.into_iter().flatten();
        one.into_iter()
            .chain(more.map(|(key, value)| (key, value.as_ref())))
    }

    /// The keys within a range.
    pub(crate) fn keys_within(&self, range: RangeInclusive<K>) -> Vec<K> {
        match self {
            Few::One(one) => {
                let only = one.iter().map(|(key, _)| *key);
                only.filter(|key| range.contains(key)).collect()
            }
            Few::More(more) => more.range(range).map(|(key, _)| *key).collect(),
        }
    }

    /// All of them. Nothing is left.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (K, V)> + use<K, V> {
        let (one, more) = match std::mem::take(self) {
            Few::One(one) => (one, BTreeMap::new()),
            Few::More(more) => (None, more),
        };
        one.into_iter()
            .chain(more.into_iter().map(|(key, value)| (key, *value)))
    }
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Few::One(None)
    }
}

// However they are kept, the same entries are the same.
impl<K: Ord + Copy, V: PartialEq> PartialEq for Few<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Ord + Copy, V: Eq> Eq for Few<K, V> {}

impl<K: Ord + Copy + Hash, V: Hash> Hash for Few<K, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len().hash(state);
        self.iter().for_each(|entry| entry.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use super::*;

    #[test]
    fn numbers_are_taken_by_name_and_one_needs_no_memory() {
        let mut numbers = Numbers::default();
        assert!(numbers.is_empty() && !numbers.take(1));
        numbers.push(1);
        assert_eq!(numbers, Numbers::One(1));
        assert!(!numbers.take(2) && numbers.take(1) && numbers.is_empty());
        (1..=4).for_each(|number| numbers.push(number));
        assert!(numbers.take(2) && !numbers.take(2));
        assert_eq!(numbers, Numbers::More(VecDeque::from([1, 3, 4])));
        // However they came to be the same, they are the same.
        assert!(numbers.take(1) && numbers.take(4));
        assert_eq!(numbers, Numbers::One(3));
        assert!(!numbers.take(9) && numbers.take(3) && numbers.is_empty());
    }

    #[test]
    fn numbers_leave_in_the_order_in_which_they_came() {
        for count in 0..5 {
            let mut numbers = Numbers::default();
            (0..count).for_each(|number| numbers.push(number));
            assert!(std::iter::from_fn(|| numbers.pop()).eq(0..count));
            assert_eq!(numbers, Numbers::None);
        }
    }

    fn hash(few: &Few<u8, u8>) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(few)
    }

    /// Every order of four steps with three keys, compared with a map of the standard library.
    #[test]
    fn few_are_a_map_however_they_are_kept() {
        for steps in 0..6_u32.pow(4) {
            let (mut few, mut model) = (Few::default(), BTreeMap::new());
            for at in 0..4 {
                let step = u8::try_from(steps / 6_u32.pow(at) % 6).unwrap();
                let (key, value) = (step % 3, u8::try_from(at).unwrap());
                if step < 3 {
                    *few.get_or_default(key) = value;
                    model.insert(key, value);
                } else {
                    assert_eq!(few.remove(&key), model.remove(&key));
                }
                assert_eq!((few.len(), few.is_empty()), (model.len(), model.is_empty()));
                assert!(few.iter().eq(&model));
                for key in 0..3 {
                    assert_eq!(few.get(&key), model.get(&key));
                    assert_eq!(few.get_mut(&key), model.get_mut(&key));
                    for range in [0..=key, key..=2] {
                        let within = model.range(range.clone()).map(|(key, _)| *key);
                        assert!(few.keys_within(range).into_iter().eq(within));
                    }
                }
            }
            let mut same = Few::default();
            for (key, value) in &model {
                *same.get_or_default(*key) = *value;
            }
            assert_eq!((&few, hash(&few)), (&same, hash(&same)));
            few.retain(|key| *key != 1);
            model.retain(|key, _| *key != 1);
            assert!(few.iter().eq(&model));
            assert!(few.take().eq(model) && few.is_empty());
        }
    }

    #[test]
    fn one_entry_is_no_tree() {
        let mut few = Few::default();
        for key in 0..100 {
            *few.get_or_default(key) = key;
            *few.get_or_default(key) += 1;
            assert!(matches!(few, Few::One(Some(_))));
            assert_eq!(few.remove(&key), Some(key + 1));
        }
    }

    #[test]
    fn what_has_other_entries_is_another() {
        let of = |entries: &[(u8, u8)]| {
            let mut few = Few::<u8, u8>::default();
            entries
                .iter()
                .for_each(|(key, value)| *few.get_or_default(*key) = *value);
            few
        };
        let hash = |few: &Few<u8, u8>| BuildHasherDefault::<DefaultHasher>::default().hash_one(few);
        let all = [of(&[]), of(&[(1, 1)]), of(&[(1, 2)]), of(&[(1, 1), (2, 1)])];
        for (place, one) in all.iter().enumerate() {
            for other in &all[place + 1..] {
                assert_ne!(one, other);
                assert_ne!(hash(one), hash(other));
            }
        }
    }

    #[test]
    fn the_only_value_lies_beside_its_key() {
        let mut few = Few::<u8, [u64; 9]>::default();
        let all = std::ptr::from_ref(&few).addr();
        let place = std::ptr::from_ref(few.get_or_default(1)).addr();
        assert!((all..all + size_of_val(&few)).contains(&place));
    }
}
