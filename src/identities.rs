//! A compact set of events' identities: a run remembers every event that it has seen, a million of
//! them after an outage, and may not grow with them as the standard library's set does (up to 39
//! bytes for each, and half as much again while it grows).
//!
//! Here it is at most 24 bytes for each, and an eighth more while it grows: a table of the bare
//! identities, in parts that grow one by one, by little. Growing keeps the order of the table, so that
//! it is a walk through memory.

#![allow(
    clippy::cast_possible_truncation,
    reason = "a hash stays one when it is cut"
)]

use std::hash::{BuildHasher, RandomState};

use crate::event::Identity;

/// How many parts a set has.
const PARTS: usize = 16;

/// A set of identities.
#[derive(Clone, Debug)]
pub struct IdentitySet {
    parts: [Part; PARTS],
    /// Random, so that nobody can choose identities that fall on the same place.
    keys: [u64; 2],
}

/// A table with open addressing. Zero marks a free place.
#[derive(Clone, Debug, Default)]
struct Part {
    places: Vec<Identity>,
    used: usize,
    has_zero: bool,
}

impl IdentitySet {
    /// A set of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            parts: Default::default(),
            keys: [0, 1].map(|_| RandomState::new().hash_one(())),
        }
    }

    /// How many identities there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let len = |part: &Part| part.used + usize::from(part.has_zero);
        self.parts.iter().map(len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this one is there.
    #[must_use]
    pub fn contains(&self, identity: Identity) -> bool {
        let hash = hash(self.keys, identity);
        let part = &self.parts[part_of(hash)];
        match part.find(hash, identity) {
            _ if identity == 0 => part.has_zero,
            Some(place) => part.places[place] == identity,
            None => false,
        }
    }

    /// Adds one; gives whether it was not there.
    pub fn insert(&mut self, identity: Identity) -> bool {
        let hash = hash(self.keys, identity);
        let part = &mut self.parts[part_of(hash)];
        if identity == 0 {
            return !std::mem::replace(&mut part.has_zero, true);
        }
        if part.used >= part.places.len() / 8 * 7 {
            part.grow(self.keys);
        }
        match part.find(hash, identity) {
            Some(place) if part.places[place] == 0 => {
                part.places[place] = identity;
                part.used += 1;
                true
            }
            _ => false,
        }
    }
}

impl Default for IdentitySet {
    fn default() -> Self {
        Self::new()
    }
}

impl Extend<Identity> for IdentitySet {
    fn extend<I: IntoIterator<Item = Identity>>(&mut self, identities: I) {
        for identity in identities {
            self.insert(identity);
        }
    }
}

impl FromIterator<Identity> for IdentitySet {
    fn from_iter<I: IntoIterator<Item = Identity>>(identities: I) -> Self {
        let mut set = Self::new();
        set.extend(identities);
        set
    }
}

impl Part {
    /// Where this one is, or the free place where it would be; `None` if there are no places.
    fn find(&self, hash: u64, identity: Identity) -> Option<usize> {
        let start = scaled(hash, self.places.len());
        let (before, from) = self.places.split_at(start);
        let is_it = |&place: &Identity| place == identity || place == 0;
        match from.iter().position(is_it) {
            Some(place) => Some(start + place),
            None => before.iter().position(is_it),
        }
    }

    /// Makes the table larger by 3/10.
    fn grow(&mut self, keys: [u64; 2]) {
        let size = (self.places.len() * 13 / 10).max(16).next_multiple_of(8);
        let old = std::mem::replace(&mut self.places, vec![0; size]);
        for identity in old.into_iter().filter(|&identity| identity != 0) {
            if let Some(place) = self.find(hash(keys, identity), identity) {
                self.places[place] = identity;
            }
        }
    }
}

/// Spreads identities over all of a number's bits, by a product that depends on both halves of the
/// identity and of the keys.
fn hash(keys: [u64; 2], identity: Identity) -> u64 {
    let (high, low) = ((identity >> 64) as u64, identity as u64);
    let product = u128::from(high ^ keys[0]) * u128::from(low ^ keys[1]);
    (product >> 64) as u64 ^ product as u64
}

/// A hash's lowest bits choose the part, its highest the place.
fn part_of(hash: u64) -> usize {
    hash as usize % PARTS
}

/// A hash brought down from all numbers to those below `size`; the larger the one the larger the other.
fn scaled(hash: u64, size: usize) -> usize {
    ((u128::from(hash) * size as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Numbers in many forms: small ones, such as differ in a few high bits, and random ones.
    fn numbers() -> impl Iterator<Item = Identity> {
        let keys = [RandomState::new(), RandomState::new()];
        (0..20_000_u128).flat_map(move |n| {
            let [high, low] = keys.each_ref().map(|key| u128::from(key.hash_one(n)));
            [n, n << 100, n << 64 | n, high << 64 | low]
        })
    }

    #[test]
    fn it_is_a_set() {
        let (mut set, mut model) = (IdentitySet::new(), HashSet::new());
        assert!(set.is_empty() && !set.contains(0) && !set.contains(1));
        for number in numbers() {
            assert_eq!(set.contains(number), model.contains(&number));
            assert_eq!(set.insert(number), model.insert(number));
            assert!(set.contains(number) && !set.insert(number));
        }
        assert_eq!(set.len(), model.len());
        assert!(model.iter().all(|&number| set.contains(number)));
        let same: IdentitySet = model.iter().copied().collect();
        assert_eq!(same.len(), model.len());
    }

    #[test]
    fn it_takes_24_bytes_for_each() {
        let mut set = IdentitySet::new();
        for number in numbers() {
            set.insert(number);
            let places: usize = set.parts.iter().map(|part| part.places.capacity()).sum();
            let few = PARTS * 32;
            assert!(
                places * 16 <= set.len().max(few) * 24,
                "{} of {places}",
                set.len()
            );
        }
    }

    #[test]
    fn places_are_searched_briefly() {
        let set: IdentitySet = numbers().collect();
        let runs = set
            .parts
            .iter()
            .flat_map(|part| part.places.split(|&place| place == 0));
        let longest = runs.map(<[_]>::len).max();
        assert!(
            longest < Some(2_000),
            "{longest:?} places without a free one"
        );
    }
}
