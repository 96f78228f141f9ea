//! The elements of a JSON array, one at a time.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::lines::{ROW_BYTES_MAX, too_long};

/// Gives the text of every element to `on_element`, until it returns false. An error says what is wrong with the array; nothing
/// says where the next element would begin, so it ends the reading.
pub(super) fn read_array(reader: impl BufRead, mut on_element: impl FnMut(&str) -> bool) -> Result<(), String> {
    let used = Rc::new(Cell::new(0));
    let limited = Limited { inner: reader, used: used.clone() };
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::new(limited));
    let mut stopped = false;
    let elements = Elements(|row: &RawValue| {
        used.set(0);
        stopped = !on_element(row.get());
        !stopped
    });
    let result = deserializer.deserialize_seq(elements).and_then(|()| deserializer.end());
    if stopped { Ok(()) } else { result.map_err(|error| error.to_string()) }
}

/// A reader that fails when one element takes more than [`ROW_BYTES_MAX`]. The caller resets `used` between elements.
struct Limited<R> {
    inner: R,
    used: Rc<Cell<usize>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.used.set(self.used.get() + count);
        if self.used.get() > ROW_BYTES_MAX {
            return Err(io::Error::other(format!("a row {}", too_long())));
        }
        Ok(count)
    }
}

/// Gives the elements of an array to a function, one by one, until it returns false.
struct Elements<F>(F);

impl<'de, F: FnMut(&RawValue) -> bool> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(row) = elements.next_element::<Box<RawValue>>()? {
            if !(self.0)(&row) {
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
