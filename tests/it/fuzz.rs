//! The inputs of fuzzing that are worth keeping, tried without a fuzzer.
//!
//! `fixtures/fuzz` has a folder for each target of `tests/fuzz`. A file whose name begins with `no-`
//! has to be refused by the check of its target, and every other file has to be accepted.
//!
//! Fuzzing found these bugs, which are fixed:
//! - `answer/no-array-for-an-object`, `page/no-array-for-a-page` and similar files: serde also reads a
//!   struct from an array.
//! - `checkpoint/no-list-without-ids`: a delivered event would have been delivered again.
//! - `page/characters-of-several-bytes`: a body that ended within a character was not recognised as
//!   cut off.

use std::fs;
use std::path::Path;

use crate::checks::CHECKS;

#[test]
fn every_kept_input_is_accepted_or_refused_as_its_name_says() {
    for (name, check) in CHECKS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures/fuzz")
            .join(name);
        let mut tried = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_refused = path
                .file_name()
                .unwrap()
                .as_encoded_bytes()
                .starts_with(b"no-");
            let input = fs::read(&path).unwrap();
            assert_eq!(check(&input), !is_refused, "{}", path.display());
            tried += 1;
        }
        assert!(tried > 1, "{name}");
    }
}
