//! The built binary beside what a machine may lack: real receivers, a real proxy, `strace`, a disk
//! of its own, and other users.
//!
//! Each test is listed below with its needs. A test whose need is not met is reported as ignored,
//! with the reason; with `TFC_AUDIT_TEST_REAL_RECEIVERS=required` it fails. Rust's own harness cannot
//! do that: the compiler decides which of its tests are ignored. So these tests run in the harness
//! of `libtest-mimic`, which understands the same arguments.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

#[path = "../support/receiver.rs"]
mod receiver;
#[path = "../support/relay.rs"]
mod relay;
#[path = "../support/stand_in.rs"]
#[allow(unused_imports, reason = "its own tests run in the target `it`")]
mod stand_in;
#[path = "../it/support.rs"]
mod support;

mod container;
mod crash;
mod faults;
mod indexes;
mod needs;
mod otlp;
mod proxy;
mod receivers;
#[path = "../it/scene.rs"]
mod scene;
mod server;
mod syslog;
mod trace;
mod users;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use needs::{nginx, noida, opentelemetry, osmem, process_1, root, rsyslog, tenzir, tinyproxy};

/// Finds a program, or returns the reason why it cannot be used.
type Need = fn() -> Result<PathBuf, String>;

/// Lists tests, each behind what it needs.
macro_rules! tests {
    ($([$($need:expr),*] $module:ident::$name:ident;)*) => {
        vec![$(test(
            concat!(stringify!($module), "::", stringify!($name)),
            &[$($need),*],
            $module::$name,
        )),*]
    };
}

fn main() -> ExitCode {
    let mut tests = tests![
        [noida] indexes::noida_runs_the_ecs_pipeline;
        [noida] indexes::noida_stores_each_event_once;
        [osmem] indexes::osmem_stores_each_event_once;
        [rsyslog] syslog::rsyslog_sends_each_event_with_its_time;
        [opentelemetry] otlp::opentelemetry_proto_parses_bodies;
        [tenzir] otlp::fluent_bit_stores_log_records;
        [tenzir] receivers::fluent_bit_stores_json_arrays;
        [tenzir] receivers::tenzir_stores_bulk_requests;
        [tenzir] receivers::tenzir_stores_ndjson;
        [tenzir] receivers::tenzir_stores_splunk_envelopes;
        [tenzir, nginx] receivers::nginx_with_a_certificate_of_the_company_is_trusted;
        [tenzir, nginx] receivers::nginx_with_a_limit_gets_smaller_bodies;
        [tinyproxy] proxy::tinyproxy_connects_with_the_right_password;
        [process_1] container::a_signal_ends_process_1_of_a_container;
        [root] users::a_file_that_another_user_planted_is_refused;
        [root] users::a_link_that_another_user_planted_is_not_followed;
        [root] users::a_user_may_keep_the_checkpoint_in_a_writable_directory_of_root;
    ];
    tests.extend(disturbed());
    let mut arguments = Arguments::from_args();
    // More than cores, since each test mostly waits for other programs.
    arguments.test_threads.get_or_insert(4);
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// Tests of runs that are disturbed at their system calls.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn disturbed() -> Vec<Trial> {
    use needs::{mount, strace};
    tests![
        [strace] crash::a_kill_in_a_first_run_repeats_one_batch_at_most;
        [strace] crash::a_kill_while_a_command_runs_repeats_one_batch_at_most;
        [strace] crash::a_kill_while_posting_repeats_one_batch_at_most;
        [strace] crash::a_kill_while_writing_dead_letters_loses_none;
        [strace] crash::a_kill_while_writing_to_a_file_repeats_one_batch_at_most;
        [strace] crash::each_commit_follows_its_delivery_and_is_synced;
        [strace] faults::a_failed_call_while_a_command_runs_loses_nothing;
        [strace] faults::a_failed_call_while_posting_loses_nothing;
        [strace] faults::a_failed_call_while_writing_to_a_file_loses_nothing;
        [strace] faults::events_that_cannot_be_put_aside_are_delivered_again;
        [strace] faults::half_a_line_that_cannot_be_cut_off_loses_nothing;
        [mount] faults::a_full_disk_loses_nothing;
        [] faults::a_directory_that_vanishes_during_a_run_is_named;
        [] faults::a_kill_within_a_line_loses_nothing;
    ]
}

/// Elsewhere the calls have other names, and none of these tests is compiled.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn disturbed() -> Vec<Trial> {
    fn x86_64_linux() -> Result<PathBuf, String> {
        Err("system calls have other names than on x86_64 Linux".to_owned())
    }
    vec![test("crash and faults", &[x86_64_linux], || ())]
}

fn test(name: &str, needs: &'static [Need], run: fn()) -> Trial {
    Trial::ignorable_test(name, move || {
        let missing = needs.iter().find_map(|need| need().err());
        let is_required =
            env::var_os("TFC_AUDIT_TEST_REAL_RECEIVERS").is_some_and(|value| value == "required");
        match missing {
            Some(reason) if is_required => Err(Failed::from(reason)),
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                run();
                Ok(Completion::Completed)
            }
        }
    })
}
