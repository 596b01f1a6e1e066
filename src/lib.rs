//! Ships HCP Terraform's audit trail to where it is wanted, one run at a time.
//!
//! A run delivers every audit event that no earlier run has delivered, oldest first, and
//! remembers in a checkpoint file how far it got. The modules follow the order of a run:
//!
//! 1. [`cli`] and [`config`]: what was typed, and what was meant by it.
//! 2. [`checkpoint`]: the lock, what earlier runs delivered, and the commit; [`files`]: whose files
//!    are believed.
//! 3. [`page`] (fast by [`scan`]), [`source`] and [`api`]: one page of the list, how pages are asked
//!    for, and how HTTP gives them.
//! 4. [`forward`]: pages one after the other, ahead of need; [`walk`]: which pages to read, and the
//!    proof that nothing was missed, with [`identities`].
//! 5. [`delivery`]: batches, and what acknowledges them; [`stdout`], [`post`] and [`exec`]: where
//!    they go; [`format`](mod@format): what receivers read, and what their answers mean.
//! 6. [`http`], [`tls`] and [`proxy`]: connections, for the source and for receivers.
//! 7. [`run`]: all of it in order; [`error`]: how it ends; [`progress`] and [`metrics`]: who is told.
//! 8. [`check`]: what a run needs, tried without one.
//!
//! Beside these: [`event`], [`normalize`], [`timestamp`], [`text`] and [`json`], what is read and
//! written; [`retry`], [`clock`], [`lines`] and [`spare`], how.
//!
//! The guarantee (complete, in order, at least once, never twice without a crash) rests on
//! [`walk`] for completeness and on [`checkpoint`] for the rest; each says why.

pub mod api;
pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod error;
pub mod event;
pub mod exec;
pub mod files;
pub mod format;
pub mod forward;
pub mod http;
pub mod identities;
pub mod json;
pub mod lines;
pub mod metrics;
pub mod normalize;
pub mod page;
pub mod post;
pub mod progress;
pub mod proxy;
pub mod retry;
pub mod run;
pub mod scan;
pub mod source;
pub mod spare;
pub mod stdout;
pub mod text;
pub mod timestamp;
pub mod tls;
pub mod walk;
