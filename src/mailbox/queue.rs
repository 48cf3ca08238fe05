//! First in, first out, in pieces: a long queue is never moved to a larger place, and gives back what is read.
//!
//! A `VecDeque` that doubles has touched twice the memory of what it holds, and memory that is touched for the
//! first time is what a backlog costs most. A queue that stays short is one `VecDeque` and nothing else, and one that
//! never holds two things has no memory elsewhere.

use std::collections::VecDeque;

/// Entries of one piece.
const PIECE: usize = 64;

#[derive(Debug)]
pub(super) struct Queue<T> {
    /// The oldest, if there was nothing else when it came. Most mailboxes hold one thing at the most, and whoever is
    /// woken for it has it at hand.
    one: Option<T>,
    /// The next ones.
    first: VecDeque<T>,
    /// The others. All but the last are full.
    #[expect(clippy::box_collection, reason = "few queues ever have others")]
    later: Option<Box<VecDeque<VecDeque<T>>>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            one: None,
            first: VecDeque::new(),
            later: None,
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn len(&self) -> usize {
        let later = self.later.as_ref().map_or(0, |later| {
            let last = later.back().map_or(0, VecDeque::len);
            later.len().saturating_sub(1) * PIECE + last
        });
        usize::from(self.one.is_some()) + self.first.len() + later
    }

    #[inline]
    pub(super) fn push_back(&mut self, entry: T) {
        // Where there are later ones, there are first ones.
        if self.one.is_none() && self.first.is_empty() {
            self.one = Some(entry);
            return;
        }
        let is_short = self.later.as_ref().is_none_or(|later| later.is_empty());
        if is_short && self.first.len() < PIECE {
            return self.first.push_back(entry);
        }
        let later = self.later.get_or_insert_default();
        match later.back_mut() {
            Some(last) if last.len() < PIECE => last.push_back(entry),
            _ => {
                let mut last = VecDeque::with_capacity(PIECE);
                last.push_back(entry);
                later.push_back(last);
            }
        }
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<T> {
        if self.one.is_some() {
            return self.one.take();
        }
        let entry = self.first.pop_front()?;
        if self.first.is_empty()
            && let Some(later) = &mut self.later
        {
            match later.pop_front() {
                Some(next) => self.first = next,
                None => self.later = None,
            }
        }
        Some(entry)
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.one.as_ref().or_else(|| self.first.front())
    }

    pub(super) fn get_mut(&mut self, mut at: usize) -> Option<&mut T> {
        if let Some(one) = &mut self.one {
            if at == 0 {
                return Some(one);
            }
            at -= 1;
        }
        let Some(behind) = at.checked_sub(self.first.len()) else {
            return self.first.get_mut(at);
        };
        let later = self.later.as_mut()?;
        later.get_mut(behind / PIECE)?.get_mut(behind % PIECE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other_needs_no_memory() {
        let mut queue = Queue::default();
        for entry in 0..1000 {
            queue.push_back(entry);
            assert_eq!((queue.len(), queue.front()), (1, Some(&entry)));
            assert_eq!(queue.pop_front(), Some(entry));
        }
        assert_eq!((queue.first.capacity(), queue.pop_front()), (0, None));
        // What comes behind others is not before them, also when the oldest is gone.
        (0..3).for_each(|entry| queue.push_back(entry));
        assert_eq!(queue.pop_front(), Some(0));
        queue.push_back(3);
        let rest = std::iter::from_fn(|| queue.pop_front());
        assert!(rest.eq(1..=3));
    }

    /// Also if it was long once, and has not been empty since.
    #[test]
    fn a_short_queue_makes_no_pieces() {
        let mut queue = Queue::default();
        (0..3 * PIECE).for_each(|entry| queue.push_back(entry));
        (1..3 * PIECE).for_each(|_| assert!(queue.pop_front().is_some()));
        for entry in 0..1000 {
            queue.push_back(entry);
            assert!(queue.later.as_ref().is_none_or(|later| later.is_empty()));
            assert!(queue.pop_front().is_some());
        }
        assert_eq!(queue.len(), 1);
    }

    /// Pushes and pops around the ends of pieces, compared with the queue of the standard library.
    #[test]
    fn is_a_queue() {
        let sizes = [0, 1, 2, 63, 64, 65, 127, 128, 129, 200];
        let runs = |a: usize| sizes.map(|b| sizes.map(|c| [a, b, c, 70, 500]));
        for [pushed, popped, more, less, rest] in sizes.map(runs).concat().concat() {
            let (mut queue, mut model) = (Queue::default(), VecDeque::new());
            let mut next = 0;
            for (pushes, pops) in [(pushed, popped), (more, less), (1, rest)] {
                for _ in 0..pushes {
                    queue.push_back(next);
                    model.push_back(next);
                    next += 1;
                }
                for at in 0..=model.len() {
                    assert_eq!(queue.get_mut(at), model.get_mut(at));
                }
                for _ in 0..pops {
                    assert_eq!(queue.pop_front(), model.pop_front());
                }
                assert_eq!(queue.len(), model.len());
            }
        }
    }
}
