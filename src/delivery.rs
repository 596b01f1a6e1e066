//! Delivery: where events go, and what proves that they arrived.

use crate::error::Error;
use crate::event::Event;

/// Somewhere to deliver to.
pub trait Target {
    /// Hands over these events in their order, and returns once they are safely there.
    ///
    /// # Errors
    /// If it is not certain that all of them are.
    fn send(&mut self, events: &[Event]) -> Result<(), Error>;
}

/// The proof that events were delivered: only [`deliver`] can make one, and only with one can they
/// be put into the checkpoint.
#[derive(Debug)]
pub struct Acknowledged<'a> {
    events: &'a [Event],
}

impl<'a> Acknowledged<'a> {
    /// What was delivered, in this order.
    #[must_use]
    pub fn events(&self) -> &'a [Event] {
        self.events
    }
}

/// Delivers events to a target.
///
/// # Errors
/// The target's own.
pub fn deliver<'a>(
    target: &mut dyn Target,
    events: &'a [Event],
) -> Result<Acknowledged<'a>, Error> {
    target.send(events)?;
    Ok(Acknowledged { events })
}
