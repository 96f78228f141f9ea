//! The pages of a column, held to limits before anything is made of them.
//!
//! The crate has a reader of pages too. It reserves what a page says of itself, and unpacks gzip without a limit, so a file of a
//! few kilobytes could take all memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;

use super::budget::Budget;
use super::codec::Codec;
use super::delta;
use super::thrift::{Fault, Numbers, Thrift};

/// The longest page, in bytes. Writers aim at one million; a few go to a hundred.
const PAGE_BYTES_MAX: usize = 256 << 20;
/// The most values of a page.
const VALUES_MAX: usize = 1 << 26;
/// The longest header of a page, in bytes. It may hold the smallest and the largest value.
const HEADER_BYTES_MAX: usize = 16 << 20;

/// Reads the pages of one column of a row group.
pub(super) struct Pages {
    file: Arc<File>,
    /// The next page, and the end of the last, in the file.
    at: u64,
    end: u64,
    codec: Codec,
    max_def: i16,
    max_rep: i16,
    next: Option<Header>,
    budget: Arc<Budget>,
    /// Bytes of the page that was handed out last, and of the dictionary.
    page: usize,
    dictionary: usize,
}

/// What a page says of itself.
struct Header {
    kind: i64,
    unpacked: usize,
    packed: usize,
    /// Of a dictionary, a page, or a page of the second version.
    numbers: Numbers,
}

impl Header {
    const DATA: i64 = 0;
    const DICTIONARY: i64 = 2;
    const DATA_V2: i64 = 3;

    /// The header that `bytes` begin with, and its length.
    fn read(bytes: &[u8]) -> std::result::Result<(Self, usize), Fault> {
        let (mut thrift, mut last) = (Thrift::new(bytes), 0);
        let (mut own, mut numbers) = ([None; 4], Numbers::default());
        while let Some((id, kind)) = thrift.field(&mut last)? {
            match (id, kind) {
                (1..=3, 4..=6) => own[id as usize] = Some(thrift.signed()?),
                (5 | 7 | 8, 12) => numbers = thrift.numbers()?,
                _ => thrift.skip(kind)?,
            }
        }
        let size = |field: usize| own[field].and_then(|size| usize::try_from(size).ok()).ok_or(Fault::Bad);
        Ok((Self { kind: own[1].ok_or(Fault::Bad)?, unpacked: size(2)?, packed: size(3)?, numbers }, thrift.at))
    }

    /// Whether there is something to read in it: an index has no values, and at an empty page the crate would end the column.
    fn has_values(&self) -> bool {
        match self.kind {
            Self::DATA | Self::DATA_V2 => self.numbers[1] != Some(0),
            kind => kind == Self::DICTIONARY,
        }
    }

    fn count(&self, field: usize) -> Result<u32> {
        let number = self.numbers[field].and_then(|number| u32::try_from(number).ok());
        number.filter(|number| *number as usize <= VALUES_MAX).ok_or_else(|| broken("a page has an impossible header"))
    }

    fn encoding(&self, field: usize) -> Result<Encoding> {
        #[expect(deprecated, reason = "old files have it")]
        let bit_packed = Encoding::BIT_PACKED;
        Ok(match self.numbers[field] {
            Some(0) => Encoding::PLAIN,
            Some(2) => Encoding::PLAIN_DICTIONARY,
            Some(3) => Encoding::RLE,
            Some(4) => bit_packed,
            Some(5) => Encoding::DELTA_BINARY_PACKED,
            Some(6) => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            Some(7) => Encoding::DELTA_BYTE_ARRAY,
            Some(8) => Encoding::RLE_DICTIONARY,
            Some(9) => Encoding::BYTE_STREAM_SPLIT,
            _ => return Err(broken("a page has an unknown encoding")),
        })
    }
}

fn broken(reason: impl Into<String>) -> ParquetError {
    ParquetError::General(reason.into())
}

impl Pages {
    /// The pages of `column`, which must lie within the `length` bytes of the file.
    pub fn new(
        file: Arc<File>,
        length: u64,
        column: &ColumnChunkMetaData,
        budget: Arc<Budget>,
    ) -> std::result::Result<Self, String> {
        if column.file_path().is_some_and(|path| !path.is_empty()) {
            return Err("its columns lie in other files, which is not supported".to_string());
        }
        // Some writers say 0 where there is no dictionary.
        let dictionary = column.dictionary_page_offset().filter(|at| *at > 0);
        let start = dictionary.map_or(column.data_page_offset(), |at| at.min(column.data_page_offset()));
        let range = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
        let range = range.and_then(|(start, bytes)| Some((start, start.checked_add(bytes)?)));
        let (at, end) = range.filter(|(_, end)| *end <= length).ok_or("a column lies outside of the file")?;
        let descriptor = column.column_descr();
        let (max_def, max_rep) = (descriptor.max_def_level(), descriptor.max_rep_level());
        let codec = Codec::of(column.compression())?;
        Ok(Self { file, at, end, codec, max_def, max_rep, next: None, budget, page: 0, dictionary: 0 })
    }

    fn read_at(&self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.at).map_err(|error| broken(error.to_string()))?;
        Ok(bytes)
    }

    /// Reads the header of the next page unless it is known; `None` after the last.
    fn look(&mut self) -> Result<Option<&Header>> {
        let mut window = 1 << 12;
        while self.next.is_none() {
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            if left == 0 {
                return Ok(None);
            }
            match Header::read(&self.read_at(window.min(left))?) {
                Ok((header, length)) => {
                    self.at += length as u64;
                    self.check(&header)?;
                    match header.has_values() {
                        true => self.next = Some(header),
                        false => self.at += header.packed as u64,
                    }
                }
                Err(Fault::Short) if window < left.min(HEADER_BYTES_MAX) => window *= 16,
                Err(_) => return Err(broken("the header of a page is damaged")),
            }
        }
        Ok(self.next.as_ref())
    }

    fn check(&self, header: &Header) -> Result<()> {
        if header.packed as u64 > self.end - self.at || header.packed.max(header.unpacked) > PAGE_BYTES_MAX {
            return Err(broken(format!(
                "a page cannot have {} bytes, or {} unpacked (the most is {PAGE_BYTES_MAX})",
                header.packed, header.unpacked
            )));
        }
        Ok(())
    }

    /// Counts a page among what is in memory.
    fn charge(&mut self, header: &Header, values: usize) -> Result<()> {
        // The levels of a value in a list are held until its row is done.
        let levels = if self.max_rep > 0 { 4 * values } else { 0 };
        let held = if header.kind == Header::DICTIONARY { &mut self.dictionary } else { &mut self.page };
        let before = std::mem::replace(held, header.unpacked + levels);
        self.budget.take(header.unpacked + levels, before).map_err(broken)
    }

    fn dictionary_page(&self, header: &Header, packed: Bytes) -> Result<Page> {
        let buf = self.codec.unpack(packed, header.unpacked).map_err(broken)?;
        let is_sorted = header.numbers[3] == Some(1);
        Ok(Page::DictionaryPage { buf, num_values: header.count(1)?, encoding: header.encoding(2)?, is_sorted })
    }

    fn page(&self, header: &Header, packed: Bytes) -> Result<Page> {
        let buf = self.codec.unpack(packed, header.unpacked).map_err(broken)?;
        let (num_values, encoding) = (header.count(1)?, header.encoding(2)?);
        let (def_level_encoding, rep_level_encoding) = (header.encoding(3)?, header.encoding(4)?);
        let mut at = 0;
        for (most, encoding) in [(self.max_rep, rep_level_encoding), (self.max_def, def_level_encoding)] {
            at += length_of_levels(&buf[at..], most, encoding, num_values as usize)?;
        }
        delta::check(encoding, &buf[at..], num_values as usize).map_err(broken)?;
        let statistics = None;
        Ok(Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics })
    }

    /// Of the second version, levels are not compressed.
    fn page_v2(&self, header: &Header, mut packed: Bytes) -> Result<Page> {
        let (def_levels_byte_len, rep_levels_byte_len) = (header.count(5)?, header.count(6)?);
        let levels = def_levels_byte_len as usize + rep_levels_byte_len as usize;
        if levels > packed.len() || levels > header.unpacked {
            return Err(broken("the levels of a page are longer than it is"));
        }
        let is_compressed = header.numbers[7] != Some(0);
        let mut unpacked = packed.split_to(levels).to_vec();
        let codec = if is_compressed && !packed.is_empty() { self.codec } else { Codec::None };
        unpacked.extend_from_slice(&codec.unpack(packed, header.unpacked - levels).map_err(broken)?);
        let (num_values, encoding) = (header.count(1)?, header.encoding(4)?);
        delta::check(encoding, &unpacked[levels..], num_values as usize).map_err(broken)?;
        Ok(Page::DataPageV2 {
            buf: unpacked.into(),
            num_values,
            encoding,
            num_nulls: header.count(2)?,
            num_rows: header.count(3)?,
            def_levels_byte_len,
            rep_levels_byte_len,
            is_compressed,
            statistics: None,
        })
    }
}

/// The bytes that levels up to `most` take at the beginning of a page of the first version.
fn length_of_levels(bytes: &[u8], most: i16, encoding: Encoding, values: usize) -> Result<usize> {
    if most == 0 {
        return Ok(0);
    }
    let length = match encoding {
        Encoding::RLE => bytes.first_chunk().map(|length| 4 + u32::from_le_bytes(*length) as usize),
        // The other one packs as few bits as hold the largest level.
        _ => Some((values * (i16::BITS - most.leading_zeros()) as usize).div_ceil(8)),
    };
    length.filter(|length| *length <= bytes.len()).ok_or_else(|| broken("the levels of a page are longer than it is"))
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        if self.look()?.is_none() {
            return Ok(None);
        }
        let Some(header) = self.next.take() else { return Ok(None) };
        self.charge(&header, header.count(1)? as usize)?;
        let packed = Bytes::from(self.read_at(header.packed)?);
        self.at += header.packed as u64;
        match header.kind {
            Header::DICTIONARY => self.dictionary_page(&header, packed),
            Header::DATA => self.page(&header, packed),
            _ => self.page_v2(&header, packed),
        }
        .map(Some)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        let Some(header) = self.look()? else { return Ok(None) };
        let is_dict = header.kind == Header::DICTIONARY;
        let num_rows = (header.kind == Header::DATA_V2).then(|| header.count(3)).transpose()?;
        let num_levels = if is_dict { None } else { Some(header.count(1)? as usize) };
        Ok(Some(PageMetadata { num_rows: num_rows.map(|rows| rows as usize), num_levels, is_dict }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.look()?;
        self.at += self.next.take().map_or(0, |header| header.packed as u64);
        Ok(())
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.budget.give_back(self.page + self.dictionary);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A whole number as Thrift writes it.
    fn number(number: i64) -> Vec<u8> {
        let (mut left, mut bytes) = ((number << 1 ^ number >> 63).cast_unsigned(), Vec::new());
        while left >= 0x80 {
            bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        bytes.push(left as u8);
        bytes
    }

    /// A header of a page of the first version, without levels.
    fn header(kind: i64, unpacked: i64, packed: i64, values: i64) -> Vec<u8> {
        let field = |value: i64| [vec![0x15], number(value)].concat();
        let own = [kind, unpacked, packed].map(field).concat();
        let page = [values, 0, 3, 3].map(field).concat();
        [own, vec![0x2c], page, vec![0, 0]].concat()
    }

    fn pages(bytes: &[u8]) -> Pages {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (file, end, budget) = (Arc::new(file), bytes.len() as u64, Arc::new(Budget::default()));
        let (max_def, max_rep, next, page, dictionary) = (0, 0, None, 0, 0);
        Pages { file, at: 0, end, codec: Codec::None, max_def, max_rep, next, budget, page, dictionary }
    }

    #[test]
    fn pages_are_read_one_by_one_and_those_without_values_are_passed_over() {
        let page = |values: i64| [header(0, 4, 4, values), b"\x01\0\0\0".to_vec()].concat();
        let index = [header(1, 3, 3, 1), vec![9; 3]].concat();
        let mut pages = pages(&[page(1), page(0), index, page(2)].concat());
        assert!(pages.peek_next_page().unwrap().is_some_and(|page| page.num_levels == Some(1)));
        let counts: Vec<u32> = pages.by_ref().map(|page| page.unwrap().num_values()).collect();
        assert_eq!(counts, [1, 2]);
    }

    #[test]
    fn a_page_that_says_too_much_of_itself_is_refused_before_it_is_read() {
        let most = PAGE_BYTES_MAX as i64;
        for (kind, unpacked, packed, values, words) in [
            (0, 1 << 31, 4, 1, "a page cannot have"),
            (0, most + 1, 4, 1, "a page cannot have"),
            (0, 4, 5, 1, "a page cannot have"),
            (0, -1, 4, 1, "the header of a page is damaged"),
            (0, 5, 4, 1, "has not the 5 bytes"),
            (0, 4, 4, VALUES_MAX as i64 + 1, "an impossible header"),
            (0, 4, 4, -1, "an impossible header"),
        ] {
            let bytes = [header(kind, unpacked, packed, values), vec![0; 4]].concat();
            let said = pages(&bytes).get_next_page().unwrap_err().to_string();
            assert!(said.contains(words), "{words}: {said}");
        }
        let cut = header(0, 4, 4, 1);
        assert!(pages(&cut[..cut.len() - 1]).get_next_page().is_err());
    }
}
