//! Ships HCP Terraform's audit trail to a SIEM, one run at a time.
//!
//! A run delivers every audit event that no earlier run has delivered, oldest first. It remembers
//! in a checkpoint file how far it got. The modules below are in the order of a run.
//!
//! The guarantee is: complete, in order, at least once, and never twice unless a run was killed.
//! It rests on [`walk`] for completeness and on [`checkpoint`] for the rest; each says why.
//!
//! # Glossary
//!
//! Each word has one meaning, here and in all messages and documents:
//!
//! - **event**: one entry of the audit trail, with an `id` and a `timestamp`.
//! - **service**: HCP Terraform's Audit Trails API. The walk reads it through the trait
//!   [`source::Source`], which tests implement, too.
//! - **page**: one answer of the service. Pages are numbered from the newest, which is page 1.
//! - **window**: a page, rarely several, that the walk reads and proves in one step.
//! - **edge**: the newest event of the last window.
//! - **linked**: a window whose last events are in earlier windows, too.
//! - **cut**: the timestamp below which the counts cover a window's events.
//! - **receiver**: what takes the events: standard output, a program or an HTTP server. Delivery
//!   reaches it through the trait [`delivery::Target`].
//! - **batch**: the events of one request to the receiver.
//! - **acknowledge**: the receiver says that it has taken a batch.
//! - **commit**: to replace the checkpoint with one that knows the acknowledged events.
//! - **boundary**: the time up to which all is settled, and the IDs of all events delivered since.
//! - **overlap**: how far the boundary stays behind the newest event, for events that appear late.
//! - **dead letter**: an event that the receiver refuses for good, kept in a file.

#[cfg(not(unix))]
compile_error!("tfc-audit needs Unix: on Windows, run it in WSL or in a container");

// What the user meant.
pub mod cli;
pub mod config;
pub mod help;
pub mod secret;

// A run, from the lock to the last commit.
pub mod run;

// What earlier runs delivered.
pub mod checkpoint;
pub mod fs;

// Reading the service.
pub mod source;
pub mod walk;

// What is read and delivered.
pub mod event;
pub mod time;

// Delivering to the receiver.
pub mod delivery;
pub mod format;

// The network, for both sides.
pub mod http;
pub mod retry;

// Who is told, and trying all of it without a run.
pub mod check;
pub mod report;

// How a run ends, and what every module needs.
pub mod clock;
pub mod error;
pub mod json;
pub mod signals;
pub mod spare;
pub mod text;
