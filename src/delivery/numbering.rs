//! The numbers by which a receiver names an event of a batch: counted from 0 or from 1.

use std::collections::BTreeMap;

use crate::format::verdict::Rest;

/// From which number a receiver counts the events of a request, by the code of its answer.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    first: BTreeMap<u64, usize>,
    /// The code whose numbering the next event, which goes alone, tells.
    open: Option<u64>,
}

impl Numbering {
    /// How many of the first events were certainly taken, if the receiver stopped at this number.
    ///
    /// A refusal of unknown numbering is taken to count from 1, which is one event less: the event
    /// in question then goes alone, which tells. That would tell nothing of a busy receiver, which
    /// counts from 0: Splunk answers 9 with the number 0 if it took nothing
    /// (<https://github.com/splunk/splunk-connect-for-kubernetes/issues/555>).
    pub(super) fn certain(&mut self, number: usize, code: u64, rest: Rest, count: usize) -> usize {
        if number == 0 || number == count && count == 1 {
            self.first.insert(code, number);
        }
        let known = self.first.get(&code).copied();
        let is_refusal = rest != Rest::Retry;
        self.open = (known.is_none() && is_refusal).then_some(code);
        let certain = number.saturating_sub(known.unwrap_or(usize::from(is_refusal)));
        // At least one event was not taken.
        if number > count {
            0
        } else {
            certain.min(count - 1)
        }
    }

    /// The event that was sent alone tells the first number: 0 if it was taken, since the receiver
    /// meant the event behind it, and 1 if it was refused.
    pub(super) fn told(&mut self, first: usize) {
        if let Some(code) = self.open.take() {
            self.first.insert(code, first);
        }
    }
}
