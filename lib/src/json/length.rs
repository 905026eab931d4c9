//! The length of a value's JSON, without building the text.

use std::io::{self, Write};

use serde::Serialize;

/// The bytes of the value's compact JSON; [`usize::MAX`] for a value that JSON cannot represent.
pub fn of(value: &impl Serialize) -> usize {
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).map_or(usize::MAX, |()| counter.0)
}

/// Counts the bytes written to it.
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_length_is_that_of_the_text() {
        for value in [json!(null), json!({"é\n": [1.5, -3, "\u{1}"], "": {}})] {
            assert_eq!(of(&value), value.to_string().len());
        }
        assert_eq!(of(&(1, "a")), r#"[1,"a"]"#.len());
    }
}
