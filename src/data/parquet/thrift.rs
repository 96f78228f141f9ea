//! The compact form of Thrift, as far as it takes to look at a file before anything is made of it.

/// Why bytes cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// They end too early.
    Short,
    /// They are no such thing.
    Bad,
}

/// Values nest this deep at most: those of a footer do three or four levels deep.
const DEPTH_MAX: usize = 32;

/// Kinds of values that are looked at. The others are only skipped.
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Reads values from the beginning of `bytes`.
pub(super) struct Thrift<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

/// Whole numbers and truth values of a struct by their field's number.
pub(super) type Numbers = [Option<i64>; 12];

impl<'a> Thrift<'a> {
    /// At the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::Short)?;
        self.at += 1;
        Ok(byte)
    }

    /// A whole number in pieces of seven bits, the lowest first.
    pub fn unsigned(&mut self) -> Result<u64, Fault> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Fault::Bad)
    }

    /// A whole number, the sign in its lowest bit.
    pub fn signed(&mut self) -> Result<i64, Fault> {
        let number = self.unsigned()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn pass(&mut self, count: u64) -> Result<(), Fault> {
        let count = usize::try_from(count).map_err(|_| Fault::Short)?;
        self.at = self.at.checked_add(count).filter(|at| *at <= self.bytes.len()).ok_or(Fault::Short)?;
        Ok(())
    }

    /// The number and the kind of the next field of a struct; `None` at its end.
    pub fn field(&mut self, last: &mut i64) -> Result<Option<(i64, u8)>, Fault> {
        let head = self.byte()?;
        let (step, kind) = (i64::from(head >> 4), head & 15);
        if kind == 0 {
            return Ok(None);
        }
        *last = if step > 0 { *last + step } else { self.signed()? };
        Ok(Some((*last, kind)))
    }

    /// The kind and the number of the elements of a list.
    fn list(&mut self) -> Result<(u8, u64), Fault> {
        let head = self.byte()?;
        let count = u64::from(head >> 4);
        Ok((head & 15, if count == 15 { self.unsigned()? } else { count }))
    }

    /// The number of elements of a list of structs.
    pub fn structs(&mut self, kind: u8) -> Result<u64, Fault> {
        match (kind, self.list()?) {
            (LIST, (STRUCT, count)) => Ok(count),
            (LIST, (_, 0)) => Ok(0),
            _ => Err(Fault::Bad),
        }
    }

    /// Passes over a value of a field.
    pub fn skip(&mut self, kind: u8) -> Result<(), Fault> {
        self.skip_at(kind, 0)
    }

    fn skip_at(&mut self, kind: u8, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Bad);
        }
        match kind {
            // The truth value of a field is its kind.
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4..=6 => self.unsigned().map(drop),
            7 => self.pass(8),
            8 => self.unsigned().and_then(|length| self.pass(length)),
            9 | 10 => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind, depth + 1))
            }
            11 => {
                let count = self.unsigned()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, depth + 1)?;
                    self.skip_element(kinds & 15, depth + 1)
                })
            }
            12 => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip_at(kind, depth + 1)?;
                }
                Ok(())
            }
            13 => self.pass(16),
            _ => Err(Fault::Bad),
        }
    }

    /// In a list a truth value takes a byte.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Result<(), Fault> {
        if matches!(kind, 1 | 2) { self.pass(1) } else { self.skip_at(kind, depth) }
    }

    /// A struct's numbers; its other fields are passed over.
    pub fn numbers(&mut self) -> Result<Numbers, Fault> {
        let (mut numbers, mut last) = (Numbers::default(), 0);
        while let Some((id, kind)) = self.field(&mut last)? {
            let place = usize::try_from(id).ok().and_then(|id| numbers.get_mut(id));
            match (place, kind) {
                (Some(place), 1 | 2) => *place = Some(i64::from(kind == 1)),
                (Some(place), 4..=6) => *place = Some(self.signed()?),
                _ => self.skip(kind)?,
            }
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_struct_are_found_among_other_fields() {
        // 1: i32 = -3, 2: text "ab", 3: true, 5: list of two structs, 7: i64 = 300.
        let bytes = [0x15, 5, 0x18, 2, b'a', b'b', 0x11, 0x29, 0x2c, 0x15, 2, 0, 0, 0x26, 0xd8, 4, 0, 99];
        let mut thrift = Thrift::new(&bytes);
        let numbers = thrift.numbers().unwrap();
        assert_eq!((numbers[1], numbers[3], numbers[7]), (Some(-3), Some(1), Some(300)));
        assert_eq!(thrift.at, bytes.len() - 1);
        for cut in 0..bytes.len() - 1 {
            assert_eq!(Thrift::new(&bytes[..cut]).numbers(), Err(Fault::Short), "{cut}");
        }
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let nested = |depth: usize| [vec![0x1c; depth], vec![0; depth + 1]].concat();
        assert!(Thrift::new(&nested(DEPTH_MAX)).skip(STRUCT).is_ok());
        assert_eq!(Thrift::new(&nested(100_000)).skip(STRUCT), Err(Fault::Bad));
    }
}
