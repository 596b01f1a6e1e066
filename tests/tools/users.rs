//! Files of other users, in a directory that everybody may write.

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};

use crate::stand_in::events;
use crate::support::{Bench, Outcome, PROGRAM, now};

/// The run was refused before its first request.
#[track_caller]
fn is_refused(run: &Outcome, because: &str) {
    run.fails(8, because).asks(0);
}

fn permit(path: &Path, mode: u32) {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, permissions).expect("it is ours");
}

/// Creates a directory that everybody may write, as `/tmp`.
fn common(bench: &Bench) -> PathBuf {
    let place = bench.path("common");
    fs::create_dir(&place).expect("it can be made");
    permit(&place, 0o1777);
    place
}

/// Gives a file or link to another user.
fn belongs_to_another(path: &Path) {
    lchown(path, Some(12_345), Some(12_345)).expect("`main` lists the test with this need");
}

pub fn a_link_that_another_user_planted_is_not_followed() {
    const REFUSAL: &str = "common/state belongs to another user (uid 12345)";
    let bench = Bench::of(events(3, now(), 1));
    let common = common(&bench);
    fs::create_dir(bench.path("theirs")).unwrap();
    let run = |checkpoint: &str| bench.start(bench.bare(&["-c", checkpoint])).finish();
    // This user's own link in this user's own directory.
    symlink("common", bench.path("ours")).unwrap();
    run("ours/checkpoint.json").code(0).silent();
    fs::remove_file(common.join("checkpoint.json")).unwrap();

    let planted = common.join("state");
    symlink("../theirs", &planted).unwrap();
    belongs_to_another(&planted);
    symlink("common/state/", bench.path("over")).unwrap();
    for checkpoint in ["common/state/c.json", "over/c.json"] {
        is_refused(&run(checkpoint), REFUSAL);
    }
    is_refused(
        &run("ours/state/c.json"),
        "ours/state belongs to another user",
    );
    let dead = "--dead-letter=common/state/dead";
    let post = bench.run(&["--post=http://127.0.0.1:1", dead]);
    post.fails(2, REFUSAL).asks(0);
    assert_eq!(fs::read_dir(bench.path("theirs")).unwrap().count(), 0);
}

/// A planted checkpoint could hide events, and its owner can read a planted file of dead letters.
pub fn a_file_that_another_user_planted_is_refused() {
    const REFUSAL: &str = "it belongs to another user (uid 12345)";
    let bench = Bench::of(events(3, now(), 1));
    bench.run(&[]).code(0).silent();
    let common = common(&bench);
    let run = || bench.start(bench.bare(&["-c", "common/c.json"])).finish();
    fs::copy(bench.path("checkpoint.json"), common.join("c.json")).unwrap();
    run().code(0).silent();
    belongs_to_another(&common.join("c.json"));
    is_refused(&run(), REFUSAL);
    fs::remove_file(common.join("c.json")).unwrap();
    belongs_to_another(&common.join("c.json.lock"));
    is_refused(&run(), REFUSAL);
    fs::write(common.join("dead"), "").unwrap();
    belongs_to_another(&common.join("dead"));
    let post = bench.run(&["--post=http://127.0.0.1:1", "--dead-letter=common/dead"]);
    post.fails(2, REFUSAL).asks(0);
    let names = fs::read_dir(&common).unwrap().count();
    assert_eq!(names, 2, "only the lock and the letters should be left");
    // The owner of a directory can do anything in it.
    belongs_to_another(&common);
    permit(&common, 0o777);
    run().code(0).silent();
}

pub fn a_user_may_keep_the_checkpoint_in_a_writable_directory_of_root() {
    let bench = Bench::of(events(3, now(), 1));
    let common = common(&bench);
    permit(&bench.path(""), 0o755);
    let place = common.join("place");
    fs::create_dir(&place).unwrap();
    permit(&place, 0o777);
    let own_link = common.join("link");
    symlink("place", &own_link).unwrap();
    belongs_to_another(&own_link);
    // The user may not be able to enter the directory where the command was built.
    let program = bench.path("program");
    fs::copy(PROGRAM, &program).unwrap();
    let run = || {
        let mut command = bench.clean("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups"]);
        command.arg(&program);
        command.args(bench.bare(&["-c", "common/link/c.json"]).get_args());
        bench.start(command).finish()
    };
    run().code(0).silent();
    bench.has_all();
    run().code(0).silent().prints_nothing();
    permit(&place, 0o755);
    is_refused(&run(), "c.json cannot be written: Permission denied");
}
