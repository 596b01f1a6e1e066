//! The set of all events that a run has seen: a million of them after an outage.
//!
//! The standard library's set takes up to 39 bytes for each, and half as much again while it grows.
//! Here it is one of several, by the identity's last bits, which grow one after the other.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::event::Identity;

/// How many sets there are.
const PARTS: usize = 16;

/// A set of identities.
#[derive(Clone, Debug, Default)]
pub struct IdentitySet {
    parts: [HashSet<Identity, Keys>; PARTS],
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

fn part_of(identity: Identity) -> usize {
    usize::from(identity.to_le_bytes()[0]) % PARTS
}

/// Spreads identities by a product with random keys, so that nobody can choose some that fall on
/// the same place: UUIDs are random already, and the standard library's hash would cost more than
/// all else that is done with one.
#[derive(Clone, Debug)]
struct Keys([u64; 2]);

impl Default for Keys {
    fn default() -> Self {
        Self([0, 1].map(|_| RandomState::new().hash_one(())))
    }
}

impl BuildHasher for Keys {
    type Hasher = Product;

    fn build_hasher(&self) -> Product {
        Product {
            keys: self.0,
            hash: 0,
        }
    }
}

struct Product {
    keys: [u64; 2],
    hash: u64,
}

impl Hasher for Product {
    fn write_u128(&mut self, identity: u128) {
        let [high, low] = [identity >> 64, identity].map(low_half);
        let product = u128::from(high ^ self.keys[0]) * u128::from(low ^ self.keys[1]);
        self.hash = low_half(product >> 64) ^ low_half(product);
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u128(u128::from(self.hash) << 8 | u128::from(byte));
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

fn low_half(number: u128) -> u64 {
    u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set() {
        let keys = [RandomState::new(), RandomState::new()];
        // In many forms: small ones, such as differ in a few high bits, and random ones.
        let numbers = (0..5_000_u128).flat_map(|n| {
            let [high, low] = keys.each_ref().map(|key| u128::from(key.hash_one(n)));
            [n, n << 100, n << 64 | n, high << 64 | low]
        });
        let (mut set, mut model) = (IdentitySet::default(), HashSet::new());
        assert!(set.is_empty());
        for number in numbers {
            assert_eq!(set.contains(number), model.contains(&number));
            assert_eq!(set.insert(number), model.insert(number));
            assert!(set.contains(number) && !set.insert(number));
        }
        assert_eq!(set.len(), model.len());
        assert!(!set.is_empty());
        let same: IdentitySet = model.iter().copied().collect();
        assert_eq!(same.len(), model.len());
    }

    /// Whatever the identities differ in, they are spread over the parts' tables: by the last bits
    /// of their hashes, and over the parts by those of their own.
    #[test]
    fn it_spreads() {
        let keys = Keys([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
        for shift in [0, 20, 52, 64, 84, 116] {
            let hashes = (0..4096_u128).map(|n| keys.hash_one(n << shift));
            let places: HashSet<_> = hashes.map(|hash| hash % 4096).collect();
            // Thrown at random it would be 4096 * (1 - 1/e) = 2589.
            assert!(places.len() > 1_000, "{} of {shift}", places.len());
        }
        let parts: HashSet<_> = (0..256).map(part_of).collect();
        assert_eq!(parts.len(), PARTS);
    }
}
