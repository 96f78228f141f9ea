//! Numbers that are stored as differences in blocks: whether there are as many as a page has values.
//!
//! The crate reserves memory for as many numbers as such a list says that it has, and a block of equal differences takes a few
//! bytes however long it is. So the lists are walked through before the crate sees them.

use parquet::basic::Encoding;

use super::thrift::Thrift;

/// An error if the values of a page are lists of differences that are damaged, or longer than the page's number of `values`.
pub(super) fn check(encoding: Encoding, bytes: &[u8], values: usize) -> Result<(), String> {
    let lists = match encoding {
        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => 0,
    };
    let mut at = 0;
    for _ in 0..lists {
        at += end_of_list(&bytes[at..], values).ok_or("a page has a damaged list of differences")?;
    }
    Ok(())
}

/// The bytes that a list takes; `None` if it is damaged or has more than `most` numbers.
fn end_of_list(bytes: &[u8], most: usize) -> Option<usize> {
    let mut list = Thrift::new(bytes);
    let mut number = || list.unsigned().ok().and_then(|number| usize::try_from(number).ok());
    let (block, parts, count) = (number()?, number()?, number()?);
    // The first number, and the smallest difference of each block below, are signed: of the same length.
    number()?;
    if count > most || parts == 0 || !block.is_multiple_of(128) || !(block / parts).is_multiple_of(32) {
        return None;
    }
    let of_part = block / parts;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        list.unsigned().ok()?;
        let widths = bytes.get(list.at..list.at.checked_add(parts)?)?;
        list.at += parts;
        for &width in widths {
            if left == 0 {
                break;
            }
            // The last part may be cut off after the numbers that there are.
            let whole = usize::from(width).checked_mul(of_part)? / 8;
            let needed = usize::from(width).checked_mul(left.min(of_part))?.div_ceil(8);
            if width > 64 || bytes.len() - list.at < needed || of_part == 0 {
                return None;
            }
            list.at = (list.at + whole).min(bytes.len());
            left -= left.min(of_part);
        }
    }
    Some(list.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_where_its_blocks_end_and_may_not_be_longer_than_said() {
        // Blocks of 128 in 4 parts; 40 numbers: a part of width 1 (4 bytes), a part of width 0.
        let list = [128, 1, 4, 40, 2, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let with_rest = [&list[..], b"rest"].concat();
        assert_eq!(end_of_list(&with_rest, 40), Some(list.len()));
        assert_eq!(end_of_list(&with_rest, 39), None);
        for cut in 0..list.len() {
            assert_eq!(end_of_list(&list[..cut], 40), None, "{cut}");
        }
        // No numbers, and one, have no blocks.
        assert_eq!((end_of_list(&[128, 1, 4, 0, 0], 9), end_of_list(&[128, 1, 4, 1, 2, 7], 9)), (Some(5), Some(5)));
        let both = [&list[..], &list[..], b"text"].concat();
        assert!(check(Encoding::DELTA_BYTE_ARRAY, &both, 40).is_ok());
        assert!(check(Encoding::DELTA_BYTE_ARRAY, &with_rest, 40).is_err());
        assert!(check(Encoding::PLAIN, b"", 40).is_ok());
    }
}
