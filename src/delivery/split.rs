//! Splitting: which part of a batch is sent next, and how large a body may be.

/// Splits a part in two, for a stack: the older events are the last part, which is sent next.
pub fn split_at<T>(mut part: Vec<T>, place: usize) -> [Vec<T>; 2] {
    let newer = part.split_off(place);
    [newer, part]
}

/// The halves of a part. Of 5 events, the first 2 are sent before the other 3.
pub fn halves<T>(part: Vec<T>) -> [Vec<T>; 2] {
    let half = part.len() / 2;
    split_at(part, half)
}

/// The sizes that the receiver has accepted and refused in this run, in bytes before compression.
#[derive(Debug, Default)]
pub struct BodySizes {
    largest_accepted: usize,
    smallest_refused: Option<usize>,
}

impl BodySizes {
    /// Notes the size of a body that was accepted.
    pub fn accept(&mut self, size: usize) {
        self.largest_accepted = self.largest_accepted.max(size);
    }

    /// Notes the size of a body that was too large.
    pub fn refuse(&mut self, size: usize) {
        let smallest = self.smallest_refused.unwrap_or(size);
        self.smallest_refused = Some(smallest.min(size));
    }

    /// Whether the receiver will refuse a body of this size. A larger body that was accepted proves
    /// that the size was not the reason.
    pub fn is_too_large(&self, size: usize) -> bool {
        self.smallest_refused
            .is_some_and(|refused| size >= refused && refused > self.largest_accepted)
    }

    /// The most bytes for the next batch: halfway between the accepted and the refused size, until
    /// the difference is an eighth. With 400,000 accepted and 1,000,000 refused, 700,000 are next.
    pub fn most_bytes(&self, limit: usize) -> usize {
        let accepted = self.largest_accepted;
        let most = match self.smallest_refused {
            None => limit,
            Some(refused) if refused > accepted && refused - accepted > refused / 8 => {
                accepted + (refused - accepted) / 2
            }
            Some(_) => accepted,
        };
        most.min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_half_comes_first() {
        let (mut parts, mut sent) = (vec![vec![1, 2, 3, 4, 5]], Vec::new());
        while let Some(part) = parts.pop() {
            sent.push(part.clone());
            if part.len() > 1 {
                parts.extend(halves(part));
            }
        }
        let expected: [&[_]; 9] = [
            &[1, 2, 3, 4, 5],
            &[1, 2],
            &[1],
            &[2],
            &[3, 4, 5],
            &[3],
            &[4, 5],
            &[4],
            &[5],
        ];
        assert_eq!(sent, expected);
    }

    #[test]
    fn the_size_of_a_batch_closes_in_on_the_receivers_limit() {
        let limit = 520_000;
        let mut sizes = BodySizes::default();
        let mut tried = Vec::new();
        for _ in 0..8 {
            let size = sizes.most_bytes(1_000_000);
            tried.push(size / 1_000);
            if size > limit {
                sizes.refuse(size);
            }
            // Of a batch that was refused, the halves are sent.
            sizes.accept(if size > limit { size / 2 } else { size });
        }
        assert_eq!(tried, [1_000, 750, 625, 562, 500, 500, 500, 500]);
    }

    #[test]
    fn a_size_below_one_that_was_accepted_is_not_too_large() {
        let mut sizes = BodySizes::default();
        sizes.accept(300);
        sizes.refuse(500);
        assert!(sizes.is_too_large(500) && !sizes.is_too_large(499));
        // The receiver counts events: this body is large and has few.
        sizes.accept(900);
        assert!(!sizes.is_too_large(500) && !sizes.is_too_large(1_000));
        assert_eq!(sizes.most_bytes(2_000), 900);
    }
}
