//! Protocol Buffers: the few rules of their wire format that OTLP's messages require
//! (<https://protobuf.dev/programming-guides/encoding/>).
//!
//! A message is a sequence of fields. A field is a tag, made of its number and its wire type, and a
//! value. Messages within a message are fields of bytes.

/// The wire types that exist. Groups, 3 and 4, are obsolete.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// Appends a field of an integer or an enum.
pub fn push_number(message: &mut Vec<u8>, field: u64, number: u64) {
    push_varint(message, field << 3 | VARINT);
    push_varint(message, number);
}

/// Appends a field of the type `fixed64`.
pub fn push_fixed(message: &mut Vec<u8>, field: u64, number: u64) {
    push_varint(message, field << 3 | FIXED_64);
    message.extend(number.to_le_bytes());
}

/// Appends a field of text, or of a message.
pub fn push_bytes(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    push_head(message, field, bytes.len());
    message.extend(bytes);
}

/// Appends the beginning of a field of `length` bytes, which have to follow.
pub fn push_head(message: &mut Vec<u8>, field: u64, length: usize) {
    push_varint(message, field << 3 | BYTES);
    push_varint(message, length as u64);
}

/// Appends an integer, 7 bits in each byte, the lowest ones first. The highest bit of a byte says
/// that more bytes follow.
fn push_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    message.push(number.to_le_bytes()[0]);
}

/// The text or the message in a field of a message, if it is there.
pub fn bytes(message: &[u8], field: u64) -> Option<&[u8]> {
    let (.., bytes) = last(message, |tag| tag >> 3 == field && tag & 7 != VARINT)?;
    Some(bytes)
}

/// The integer in a field of a message; 0, which is not written, if it is not there.
pub fn number(message: &[u8], field: u64) -> u64 {
    let field = last(message, |tag| tag == (field << 3 | VARINT));
    field.map_or(0, |(_, number, _)| number)
}

/// Whether these bytes can be a message.
pub fn is_message(bytes: &[u8]) -> bool {
    fields(bytes).is_some()
}

/// A tag, and a value: an integer or bytes, as the tag says.
type Field<'a> = (u64, u64, &'a [u8]);

/// The field with such a tag. Of several, the last one counts.
fn last(message: &[u8], has_tag: impl Fn(u64) -> bool) -> Option<Field<'_>> {
    let mut fields = fields(message)?.into_iter();
    fields.rfind(|&(tag, ..)| has_tag(tag))
}

/// Reads a message into its fields; `None` if the bytes are something else.
fn fields(mut rest: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        let (mut number, mut length) = (0, 0);
        match tag & 7 {
            VARINT => number = take_varint(&mut rest)?,
            FIXED_64 => length = 8,
            FIXED_32 => length = 4,
            BYTES => length = take_varint(&mut rest)?.try_into().ok()?,
            _ => return None,
        }
        // There is no field 0.
        if tag >> 3 == 0 {
            return None;
        }
        fields.push((tag, number, rest.split_off(..length)?));
    }
    Some(fields)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_the_specification_shows_and_read_back() {
        let mut message = Vec::new();
        push_number(&mut message, 1, 150);
        push_bytes(&mut message, 2, b"testing");
        push_fixed(&mut message, 16, 1);
        let written = b"\x08\x96\x01\x12\x07testing\x81\x01\x01\0\0\0\0\0\0\0";
        assert_eq!(message, written);
        assert_eq!(number(&message, 1), 150);
        assert_eq!(bytes(&message, 2), Some(&b"testing"[..]));
        assert_eq!(bytes(&message, 16), Some(&[1, 0, 0, 0, 0, 0, 0, 0][..]));
    }

    #[test]
    fn every_integer_is_read_as_it_was_written() {
        for written in (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, u64::MAX >> bit]) {
            let mut message = Vec::new();
            push_number(&mut message, 7, written);
            assert_eq!(number(&message, 7), written);
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_not_read() {
        let cases: [&[u8]; 10] = [
            b"\x08",                                         // a tag alone
            b"\x08\x96",                                     // half an integer
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", // an integer of 11 bytes
            b"\x12\x03ab",                                   // less than announced
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x02\x01a", // field 0
            b"\x0d\0\0\0",
            b"{\"code\":3}",
            b"<html>Sign in",
            b"upstream connect error",
        ];
        for bytes in cases {
            assert!(!is_message(bytes), "{bytes:?}");
        }
    }
}
