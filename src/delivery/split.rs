//! Splitting: how large a body may be.

/// The sizes that the receiver has accepted and refused in this run, in bytes before compression.
#[derive(Debug)]
pub struct BodySizes {
    largest_accepted: usize,
    smallest_refused: usize,
}

impl Default for BodySizes {
    fn default() -> Self {
        Self {
            largest_accepted: 0,
            smallest_refused: usize::MAX,
        }
    }
}

impl BodySizes {
    /// Notes the size of a body that was accepted.
    pub fn accept(&mut self, size: usize) {
        self.largest_accepted = self.largest_accepted.max(size);
    }

    /// Notes the size of a body that was too large.
    pub fn refuse(&mut self, size: usize) {
        self.smallest_refused = self.smallest_refused.min(size);
    }

    /// The most bytes for the next batch: halfway between the accepted and the refused size, until
    /// the difference is an eighth. With 400,000 accepted and 1,000,000 refused, 700,000 are next.
    pub fn most_bytes(&self, limit: usize) -> usize {
        let (accepted, refused) = (self.largest_accepted, self.smallest_refused);
        // A larger body that was accepted proves that the size was not the reason.
        let difference = refused.saturating_sub(accepted);
        let more = if difference > refused / 8 {
            difference / 2
        } else {
            0
        };
        limit.min(accepted + more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            } else {
                sizes.accept(size);
            }
        }
        assert_eq!(tried, [1_000, 500, 750, 625, 562, 500, 500, 500]);
    }

    #[test]
    fn a_size_below_one_that_was_accepted_is_not_too_large() {
        let mut sizes = BodySizes::default();
        sizes.accept(300);
        sizes.refuse(500);
        assert_eq!(sizes.most_bytes(2_000), 400);
        // The receiver counts events: this body is large and has few.
        sizes.accept(900);
        assert_eq!(sizes.most_bytes(2_000), 900);
    }
}
