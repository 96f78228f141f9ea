//! The footer of a Parquet file: its schema and where its columns are.

use std::fs::File;
use std::os::unix::fs::FileExt;

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::thrift::{Fault, Thrift};

/// The longest footer, in bytes. One of a thousand row groups with twenty columns takes three million.
const FOOTER_BYTES_MAX: u64 = 64 << 20;
/// Fields nest this deep at most.
const DEPTH_MAX: usize = 32;
/// What begins and ends a file.
const MAGIC: &[u8; 4] = b"PAR1";

/// Reads the footer of a file of `length` bytes.
pub(super) fn read_footer(file: &File, length: u64) -> Result<ParquetMetaData, String> {
    const TAIL: u64 = 8;
    if length < 4 + TAIL {
        return Err("is too short for a Parquet file".to_string());
    }
    let mut tail = [0; TAIL as usize];
    file.read_exact_at(&mut tail, length - TAIL).map_err(|error| error.to_string())?;
    if &tail[4..] == b"PARE" {
        return Err("is an encrypted Parquet file, which is not supported".to_string());
    }
    if &tail[4..] != MAGIC {
        return Err("is a Parquet file without its end: it was cut off".to_string());
    }
    let size = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if size > (length - TAIL - 4).min(FOOTER_BYTES_MAX) {
        return Err(format!("is a broken Parquet file: its footer cannot have {size} bytes"));
    }
    let mut footer = vec![0; size as usize];
    file.read_exact_at(&mut footer, length - TAIL - size).map_err(|error| error.to_string())?;
    check(&footer).map_err(|_| "is a broken Parquet file: its footer is damaged".to_string())?;
    let decoded = ParquetMetaDataReader::decode_metadata(&footer);
    decoded.map_err(|error| format!("is a broken Parquet file: {error}"))
}

/// Walks through a footer before the crate does. The crate builds the schema by recursion and reserves as many children as a
/// field says that it has, so a hostile schema could exhaust stack or memory.
fn check(footer: &[u8]) -> Result<(), Fault> {
    const SCHEMA: i64 = 2;
    let (mut thrift, mut last) = (Thrift::new(footer), 0);
    while let Some((id, kind)) = thrift.field(&mut last)? {
        match id {
            SCHEMA => check_schema(&mut thrift, kind)?,
            _ => thrift.skip(kind)?,
        }
    }
    Ok(())
}

/// The schema is a list of fields, each followed by its children.
fn check_schema(thrift: &mut Thrift, kind: u8) -> Result<(), Fault> {
    const CHILDREN: usize = 5;
    let count = thrift.structs(kind)?;
    // The children that are still to come, of each field that is open.
    let mut open: Vec<u64> = Vec::new();
    for _ in 0..count {
        let children = u64::try_from(thrift.numbers()?[CHILDREN].unwrap_or(0)).map_err(|_| Fault::Bad)?;
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if children > count || open.len() > DEPTH_MAX {
            return Err(Fault::Bad);
        }
        open.push(children);
        open.truncate(open.iter().rposition(|left| *left > 0).map_or(0, |last| last + 1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer whose schema has these numbers of children.
    fn schema(children: &[u8]) -> Vec<u8> {
        let fields = children.iter().flat_map(|children| [0x55, 2 * children, 0]);
        let count = [(children.len() & 0x7f) as u8 | 0x80, (children.len() >> 7) as u8];
        [vec![0x29, 0xfc], count.to_vec(), fields.collect(), vec![0]].concat()
    }

    #[test]
    fn a_schema_that_nests_too_deep_or_promises_too_much_is_refused() {
        assert_eq!(check(&schema(&[3, 0, 2, 0, 0, 0])), Ok(()));
        assert_eq!(check(&schema(&[1; 20])), Ok(()), "the crate names a child that is missing");
        assert_eq!(check(&schema(&[1; 1000])), Err(Fault::Bad));
        assert_eq!(check(&schema(&[60, 0])), Err(Fault::Bad));
        assert_eq!(check(&schema(&[1, 0])[..8]), Err(Fault::Short));
    }
}
