//! What fuzzing found and what it set out from, tried each time without it: the files in
//! `fixtures/fuzz`, a folder for each target of `tests/fuzz`. A file whose name begins with `no-`
//! has to be refused, every other one accepted, as far as the check of its target has it.
//!
//! Found by fuzzing, and mended: `answer/no-array-for-an-object`, `page/no-array-for-a-page` and their
//! like (serde reads a struct from an array as well), `checkpoint/no-list-without-ids` (an event that
//! was delivered would have come again), `page/characters-of-several-bytes` (a body that ends within
//! one was not known to be cut off).

use std::fs;
use std::path::Path;

use crate::checks::CHECKS;

#[test]
fn every_input_that_was_worth_keeping() {
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
