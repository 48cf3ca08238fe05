//! Breadth-first search: the first violation found is also a shortest one.
//!
//! A state is kept as a 64-bit fingerprint. Two states could share one by chance: for n states the
//! chance that any two do is about n² / 2^65, which is 3 in a million for ten million states.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

use super::scenarios::Scenario;
use super::world::{Kind, Step, World};

/// What a search found.
pub(crate) struct Findings {
    pub(crate) states: usize,
    /// Worlds in which nothing was under way.
    pub(crate) rests: usize,
    /// Steps from the beginning to the farthest world.
    pub(crate) depth: usize,
    /// Nothing is left to explore.
    pub(crate) complete: bool,
    pub(crate) time: Duration,
    /// The kinds of step that were taken.
    pub(crate) taken: BTreeSet<Kind>,
    pub(crate) violation: Option<Violation>,
}

/// A broken promise, and a shortest way to it.
pub(crate) struct Violation {
    pub(crate) promise: &'static str,
    /// One sentence per step.
    pub(crate) story: Vec<String>,
}

/// A hasher for fingerprints: every word is mixed by a wide multiplication.
#[derive(Default)]
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        let mixed = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xe703_7ed1_a0b4_28db;
        self.0 = (mixed as u64) ^ ((mixed >> 64) as u64).rotate_left(23) ^ word.rotate_left(32);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.mix(word as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = Mixer(self.0);
        last.mix(0x1234_5678_9abc_def1);
        last.mix(77);
        last.0
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints")
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut mixer = Mixer::default();
    world.hash(&mut mixer);
    mixer.finish()
}

/// Explores `scenario` until nothing is left, a promise is broken, or `limit` states are known.
pub(crate) fn explore(scenario: &Scenario, limit: usize) -> Findings {
    let begin = Instant::now();
    let first = World::new(scenario);
    let mut seen = HashSet::<u64, BuildHasherDefault<AsIs>>::default();
    seen.insert(fingerprint(&first));
    // How each state was reached: from which, by which of its steps.
    let mut reached: Vec<(u32, u8)> = vec![(0, 0)];
    let mut level = vec![(0u32, first)];
    let mut steps = Vec::new();
    let mut findings = Findings {
        states: 0,
        rests: 0,
        depth: 0,
        complete: true,
        time: Duration::ZERO,
        taken: BTreeSet::new(),
        violation: None,
    };
    'search: while !level.is_empty() {
        let mut next = Vec::new();
        for (index, world) in level {
            let required = world.steps(scenario, &mut steps);
            findings.rests += usize::from(required == 0);
            let broken = world.observer.broken.or_else(|| {
                let at_rest = required == 0;
                at_rest.then(|| world.at_rest(scenario)).flatten()
            });
            if let Some(promise) = broken {
                findings.violation = Some(Violation {
                    promise,
                    story: tell(scenario, &reached, index),
                });
                findings.complete = false;
                break 'search;
            }
            for (choice, step) in steps.iter().enumerate() {
                findings.taken.insert(step.kind());
                let mut then = world.clone();
                then.take(scenario, *step);
                if seen.insert(fingerprint(&then)) {
                    next.push((u32::try_from(reached.len()).expect("few enough"), then));
                    reached.push((index, u8::try_from(choice).expect("few choices")));
                }
            }
            if seen.len() >= limit {
                findings.complete = false;
                break 'search;
            }
        }
        findings.depth += usize::from(!next.is_empty());
        level = next;
    }
    findings.states = seen.len();
    findings.time = begin.elapsed();
    findings
}

/// Replays the way to state `index`.
fn tell(scenario: &Scenario, reached: &[(u32, u8)], mut index: u32) -> Vec<String> {
    let mut choices = Vec::new();
    while index != 0 {
        let (from, choice) = reached[index as usize];
        choices.push(choice);
        index = from;
    }
    let mut world = World::new(scenario);
    let mut steps: Vec<Step> = Vec::new();
    let mut story = Vec::new();
    for choice in choices.into_iter().rev() {
        world.steps(scenario, &mut steps);
        let step = steps[usize::from(choice)];
        story.push(world.tell(step));
        world.take(scenario, step);
    }
    story
}
