//! JSON: the ends of its values, and structs that are read from objects only.

pub mod scan;

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;

/// A struct that is read from a JSON object only.
///
/// The structs that serde derives also accept an array of their fields' values: `[0]` would be read
/// as an answer with the `code` 0.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?.get();
        if !json.starts_with('{') {
            return Err(Error::custom("not an object"));
        }
        serde_json::from_str(json)
            .map(Object)
            .map_err(Error::custom)
    }
}

/// Reads an object; `None` for any other text.
pub fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice(json)
        .ok()
        .map(|Object(fields)| fields)
}
