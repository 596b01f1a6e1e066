//! The set of all events that a run has seen: a million of them after an outage.
//!
//! The standard library's set takes from 19 to 39 bytes for each, as it doubles when it is full. Here it
//! is one of several of unequal sizes, chosen by the identity's last bits. They double one after the
//! other, so that together they take about 26 bytes for each, however many there are.

use std::collections::HashSet;

use crate::event::Identity;

/// How many sets there are.
const PARTS: usize = 16;

/// A set of identities.
#[derive(Clone, Debug, Default)]
pub struct IdentitySet {
    parts: [HashSet<Identity>; PARTS],
}

impl IdentitySet {
    /// How many identities there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(HashSet::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this one is there.
    #[must_use]
    pub fn contains(&self, identity: Identity) -> bool {
        self.parts[part_of(identity)].contains(&identity)
    }

    /// Adds one; gives whether it was not there.
    pub fn insert(&mut self, identity: Identity) -> bool {
        self.parts[part_of(identity)].insert(identity)
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
        let mut set = Self::default();
        set.extend(identities);
        set
    }
}

/// The part of an identity. Since squares lie further apart the larger they are, the last part gets
/// nearly twice as many identities as the first.
fn part_of(identity: Identity) -> usize {
    let [low, high, ..] = identity.to_le_bytes();
    let squares = PARTS * PARTS..4 * PARTS * PARTS;
    let place = usize::from(u16::from_le_bytes([low, high])) % squares.len();
    (squares.start + place).isqrt() - PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_new_once() {
        let mut set = IdentitySet::default();
        for number in (0..5_000).map(|n| n << 64 | n) {
            assert!(!set.contains(number) && set.insert(number));
            assert!(set.contains(number) && !set.insert(number));
        }
        assert_eq!(set.len(), 5_000);
        assert!(!set.is_empty());
    }

    /// Parts of one size would all grow at once, and double the set.
    #[test]
    fn the_largest_part_is_nearly_twice_the_smallest() {
        let mut sizes = [0; PARTS];
        for identity in 0..768 {
            sizes[part_of(identity)] += 1;
        }
        assert!(sizes.is_sorted());
        assert_eq!((sizes[0], sizes[PARTS - 1]), (33, 63));
    }
}
