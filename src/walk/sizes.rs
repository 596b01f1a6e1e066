//! The arithmetic of pages: which page begins and ends where in the list.
//!
//! A position is the number of newer events in the list. A page of any size up to the largest can
//! be asked for, so a page can be made to reach any position and to begin nearly anywhere.

use time::UtcDateTime;

use crate::source::page::Page;

/// The part of a page, as a divisor, by which each window reaches back into the last one at least.
const REACH_BACK: u64 = 128;

/// A page as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) size: u64,
    /// The position of the page's first event, by what is known of the service's sizes.
    pub(super) start: u64,
}

/// The newest end of what was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    /// The position of its event, when it was read.
    pub(super) position: u64,
    /// `total_count` at that time.
    pub(super) total: Option<u64>,
    /// The timestamp of its event. Every older one that is listed was seen.
    pub(super) time: UtcDateTime,
    /// How many events of this timestamp were seen.
    pub(super) ties: u64,
    /// By how many events the list grew lately.
    pub(super) drift: u64,
}

impl Edge {
    /// The edge as it lies by a later count: arrivals have pushed it to a higher position.
    pub(super) fn pushed(self, total: Option<u64>) -> Self {
        let drift = growth(total, self.total);
        Self {
            position: self.position + drift,
            total,
            drift,
            ..self
        }
    }
}

/// By how many events the list has grown between two counts; 0 without both.
pub(super) fn growth(now: Option<u64>, then: Option<u64>) -> u64 {
    match (now, then) {
        (Some(now), Some(then)) => now.saturating_sub(then),
        _ => 0,
    }
}

/// What is known of the page sizes that the service grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The size to ask for; the largest that is asked for.
    asked: u64,
    /// The size of the pages that come then.
    pub(super) effective: u64,
    /// Whether a smaller page has that smaller size, or the same size whatever is asked for; `None`
    /// as long as no answer has told.
    pub(super) follows: Option<bool>,
}

impl Sizes {
    pub(super) fn new(asked: u64) -> Self {
        Self {
            asked,
            effective: asked,
            follows: None,
        }
    }

    /// Learns from an answer, and returns the size that the page has.
    pub(super) fn learn(&mut self, place: Place, page: &Page) -> u64 {
        let length = page.events.len() as u64;
        let told = page.size.filter(|&size| size >= length);
        // A page that another one follows is full. What the answer says is only a claim.
        let full = page.next.map(|_| length).filter(|&length| length > 0);
        let Some(size) = full.or(told) else {
            if length > place.size {
                (self.follows, self.effective) = (Some(false), self.effective.max(length));
            }
            return if self.is_fixed() {
                self.effective.max(length)
            } else {
                place.size.min(self.effective)
            };
        };
        if size > place.size {
            (self.follows, self.effective) = (Some(false), size);
        } else if size < place.size {
            self.effective = self.effective.min(size);
        } else if size < self.effective {
            self.follows = Some(true);
        }
        size
    }

    fn is_fixed(&self) -> bool {
        self.follows == Some(false)
    }

    /// Tells if a page of this place begins where it should, if the list reaches there.
    pub(super) fn is_certain(&self, place: Place) -> bool {
        self.follows.is_some() || place.size == self.effective
    }

    /// The page of this number, in pages of the largest size.
    pub(super) fn page(&self, number: u64) -> Place {
        let size = if self.is_fixed() {
            self.asked
        } else {
            self.effective
        };
        Place {
            number,
            size,
            start: (number - 1).saturating_mul(self.effective),
        }
    }

    /// The page that holds this position, with pages of about this percentage of the largest size.
    pub(super) fn around(&self, position: u64, percent: u64) -> Place {
        if self.is_fixed() {
            return self.page(position / self.effective + 1);
        }
        let size = (self.effective * percent / 100).max(1);
        let number = position / size + 1;
        Place {
            number,
            size,
            start: (number - 1) * size,
        }
    }

    /// The page that reaches as far towards the newest event as one can that holds the position
    /// before `end`.
    pub(super) fn reaching(&self, end: u64) -> Place {
        let last = end.max(1) - 1;
        if self.is_fixed() {
            return self.around(last, 100);
        }
        let sizes = self.effective.div_ceil(2)..=self.effective;
        let size = sizes.max_by_key(|size| last % size).unwrap_or(1);
        Place {
            number: last / size + 1,
            size,
            start: last / size * size,
        }
    }

    /// The page for the window before this edge: it begins nearer to the newest event, and reaches
    /// back behind the edge and its ties as far as a page of this size can.
    pub(super) fn before(&self, edge: Edge) -> Place {
        let reach = self.reach_back(edge);
        // The pages behind this one are read as well, until the window is linked.
        let pages = reach.div_ceil(self.effective);
        let number = edge.position.div_ceil(self.effective).max(pages) + 1 - pages;
        let several = self.page(number);
        let end = edge.position + reach;
        let one = self.reaching(end);
        if self.is_fixed() || one.start >= edge.position {
            return several;
        }
        // Several only if they bring clearly more new events for a request: they are read in turn.
        let requests = (end - several.start).div_ceil(self.effective);
        let gain = |place: Place| edge.position - place.start;
        if 5 * gain(one) * requests >= 4 * gain(several) {
            one
        } else {
            several
        }
    }

    /// How many pages a window usually needs: where each has the same size, no page reaches back into
    /// the last window.
    pub(super) fn pages_of_a_window(&self) -> usize {
        1 + usize::from(self.is_fixed())
    }

    /// How far a window should reach back behind the edge, in events.
    pub(super) fn reach_back(&self, edge: Edge) -> u64 {
        (self.effective / REACH_BACK).max(self.effective.min(2)) + edge.ties + 2 * edge.drift
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Event, EventId};

    fn sizes(effective: u64, follows: Option<bool>) -> Sizes {
        Sizes {
            follows,
            ..Sizes::new(effective)
        }
    }

    fn edge(position: u64, ties: u64) -> Edge {
        Edge {
            position,
            total: None,
            time: UtcDateTime::UNIX_EPOCH,
            ties,
            drift: 0,
        }
    }

    fn place(number: u64, size: u64, start: u64) -> Place {
        Place {
            number,
            size,
            start,
        }
    }

    #[test]
    fn no_page_that_reaches_an_end_begins_nearer_to_the_newest_event() {
        for effective in 1..=40 {
            for end in 1..=200 {
                let place = sizes(effective, None).reaching(end);
                let nearest = (1..=effective).map(|size| (end - 1) / size * size).min();
                assert_eq!(Some(place.start), nearest, "{effective} {end}");
                assert_eq!(place.start, (place.number - 1) * place.size);
                assert!((place.start..place.start + place.size).contains(&(end - 1)));
            }
        }
        let reaching = |end| sizes(1000, None).reaching(end);
        assert_eq!(reaching(0), place(1, 1000, 0));
        assert_eq!(reaching(1000), place(1, 1000, 0));
        assert_eq!(reaching(1001), place(2, 501, 501));
        assert_eq!(reaching(2500), place(3, 834, 1668));
    }

    #[test]
    fn a_window_begins_nearer_to_the_newest_event_than_the_edge() {
        for follows in [None, Some(true), Some(false)] {
            for effective in [1, 2, 3, 10, 64, 1000] {
                for ties in [0, 1, 7, 100, 5000] {
                    for position in (1..300).chain(29_900..30_100) {
                        let before = sizes(effective, follows).before(edge(position, ties));
                        assert!(before.start < position, "{effective} {ties} {position}");
                        assert!(before.number > 0 && before.size <= effective);
                    }
                }
            }
        }
    }

    #[test]
    fn a_window_reaches_back_behind_the_edge() {
        // A 128th of a page, the ties, and twice what arrived lately.
        let sizes = sizes(1280, None);
        for (ties, drift, reach) in [(0, 0, 10), (3, 0, 13), (3, 40, 93), (20, 10, 50)] {
            for position in 1..3000 {
                let edge = Edge {
                    drift,
                    ..edge(position, ties)
                };
                assert_eq!(sizes.reach_back(edge), reach);
                let before = sizes.before(edge);
                let end = before.start + before.size;
                assert!(end >= position + reach, "{edge:?}: {before:?}");
            }
        }
    }

    #[test]
    fn a_window_has_several_pages_where_ties_fill_many() {
        for (size, position, ties, expected) in [
            (10, 100, 4, place(10, 10, 90)),
            (10, 100, 5, place(10, 10, 90)),
            (10, 100, 10, place(9, 10, 80)),
            (10, 100, 34, place(7, 10, 60)),
            // Not beyond page 1.
            (10, 15, 34, place(1, 10, 0)),
            (1, 100, 0, place(100, 1, 99)),
            (1, 100, 1, place(99, 1, 98)),
            (1, 100, 9, place(91, 1, 90)),
        ] {
            let before = sizes(size, None).before(edge(position, ties));
            assert_eq!(before, expected, "{size} {position} {ties}");
        }
    }

    #[test]
    fn a_window_of_pages_of_one_size_begins_on_the_page_before_the_edge() {
        let sizes = Sizes {
            asked: 1000,
            ..sizes(15, Some(false))
        };
        for (position, ties, expected) in [
            (1, 0, place(1, 1000, 0)),
            (15, 0, place(1, 1000, 0)),
            (16, 0, place(2, 1000, 15)),
            (150, 0, place(10, 1000, 135)),
            (150, 20, place(9, 1000, 120)),
        ] {
            assert_eq!(sizes.before(edge(position, ties)), expected, "{position}");
        }
        assert_eq!(sizes.reaching(16), place(2, 1000, 15));
        assert_eq!(sizes.around(29, 87), place(2, 1000, 15));
        assert_eq!(sizes.around(30, 87), place(3, 1000, 30));
    }

    #[test]
    fn a_page_around_a_position_holds_it() {
        assert_eq!(sizes(100, None).around(250, 87), place(3, 87, 174));
        assert_eq!(sizes(1, None).around(7, 93), place(8, 1, 7));
        for effective in [1, 2, 15, 1000] {
            for percent in [100, 93, 71] {
                for position in 0..3000 {
                    let around = sizes(effective, None).around(position, percent);
                    let range = around.start..around.start + around.size;
                    assert!(range.contains(&position), "{around:?} {position}");
                }
            }
        }
    }

    #[test]
    fn an_answer_tells_the_page_sizes() {
        let json = "{}";
        let event = Event::new(
            &Arc::new(json.into()),
            0..json.len(),
            EventId::new("a"),
            UtcDateTime::UNIX_EPOCH,
        );
        let (next, last) = (Some(2), None);
        let (unknown, follows, fixed) = (None, Some(true), Some(false));
        for (what, (asked, events, next, told), expected) in [
            ("honoured", (10, 10, next, Some(10)), (10, 10, unknown)),
            ("smaller", (7, 7, next, Some(7)), (7, 10, follows)),
            ("smaller, untold", (7, 7, next, None), (7, 10, follows)),
            ("smaller, last", (7, 3, last, Some(7)), (7, 10, follows)),
            ("clamped", (10, 4, next, Some(4)), (4, 4, unknown)),
            ("clamped, untold", (10, 4, next, None), (4, 4, unknown)),
            ("clamped, last", (10, 2, last, Some(4)), (4, 4, unknown)),
            ("it repeats", (10, 4, next, Some(10)), (4, 4, unknown)),
            ("ignored", (7, 10, next, Some(10)), (10, 10, fixed)),
            ("ignored, untold", (7, 10, next, None), (10, 10, fixed)),
            ("ignored, last", (7, 2, last, Some(10)), (10, 10, fixed)),
            ("larger", (10, 15, next, Some(15)), (15, 15, fixed)),
            ("larger, untold", (10, 15, next, None), (15, 15, fixed)),
            ("last, untold", (10, 2, last, None), (10, 10, unknown)),
            ("larger, last", (10, 15, last, None), (15, 15, fixed)),
            ("a wrong size", (10, 5, last, Some(3)), (10, 10, unknown)),
            ("empty", (10, 0, next, None), (10, 10, unknown)),
            ("empty, told", (10, 0, next, Some(4)), (4, 4, unknown)),
        ] {
            let mut sizes = Sizes::new(10);
            let page = Page {
                events: vec![event.clone(); events],
                next,
                size: told,
                ..Page::default()
            };
            let size = sizes.learn(place(1, asked, 0), &page);
            assert_eq!((size, sizes.effective, sizes.follows), expected, "{what}");
        }
        // A short last page does not tell the size, but an earlier one did.
        let page = Page {
            events: vec![event; 2],
            ..Page::default()
        };
        assert_eq!(sizes(4, None).learn(place(3, 10, 8), &page), 4);
        assert_eq!(sizes(15, fixed).learn(place(3, 10, 30), &page), 15);
    }

    #[test]
    fn arrivals_push_the_edge_and_nothing_pulls_it_back() {
        for (then, now, position, drift) in [
            (Some(100), Some(107), 57, 7),
            (Some(100), Some(100), 50, 0),
            (Some(100), Some(90), 50, 0),
            (None, Some(107), 50, 0),
            (Some(100), None, 50, 0),
        ] {
            let edge = Edge {
                total: then,
                ..edge(50, 3)
            };
            let pushed = edge.pushed(now);
            assert_eq!((pushed.position, pushed.drift), (position, drift));
            assert_eq!((pushed.total, pushed.ties), (now, 3));
        }
    }
}
