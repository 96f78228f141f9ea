//! The compressions of Parquet pages. None of them trusts the size that a page says it has.

use std::io::Read;

use bytes::Bytes;
use parquet::basic::Compression;

/// How the pages of a column are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Snappy,
    Gzip,
    Zstd,
    Lz4,
}

impl Codec {
    /// The codec that a column names.
    pub fn of(compression: Compression) -> Result<Self, String> {
        match compression {
            Compression::UNCOMPRESSED => Ok(Self::None),
            Compression::SNAPPY => Ok(Self::Snappy),
            Compression::GZIP(_) => Ok(Self::Gzip),
            Compression::ZSTD(_) => Ok(Self::Zstd),
            Compression::LZ4_RAW => Ok(Self::Lz4),
            other => {
                Err(format!("its compression {other} is not supported; write it with snappy, zstd, gzip or lz4_raw"))
            }
        }
    }

    /// The `size` bytes that `packed` holds; an error if it holds more or fewer. A codec that wants memory for all of them at
    /// once gets it only where so few bytes can hold so many.
    pub fn unpack(self, packed: Bytes, size: usize) -> Result<Bytes, String> {
        let wrong = || format!("a page has not the {size} bytes that it says it has");
        let at_most = |ratio: usize| size <= packed.len().saturating_mul(ratio).saturating_add(64);
        let bytes = match self {
            Self::None if packed.len() == size => return Ok(packed),
            Self::None => return Err(wrong()),
            Self::Snappy => {
                // A copy of 64 bytes takes two.
                if snap::raw::decompress_len(&packed).ok() != Some(size) || !at_most(32) {
                    return Err(wrong());
                }
                snap::raw::Decoder::new().decompress_vec(&packed).map_err(|error| error.to_string())?
            }
            Self::Lz4 if !at_most(255) => return Err(wrong()),
            Self::Lz4 => lz4_flex::block::decompress(&packed, size).map_err(|error| error.to_string())?,
            Self::Gzip => read(flate2::bufread::MultiGzDecoder::new(&packed[..]), size)?,
            Self::Zstd => {
                read(zstd::stream::read::Decoder::with_buffer(&packed[..]).map_err(|error| error.to_string())?, size)?
            }
        };
        if bytes.len() == size { Ok(bytes.into()) } else { Err(wrong()) }
    }
}

/// The bytes of a decoder, and one more than there should be.
fn read(decoder: impl Read, size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    decoder.take((size as u64).saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_page_is_as_long_as_it_says_or_an_error_without_its_memory() {
        let text = b"text ".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        for (codec, packed) in [
            (Codec::None, text.clone()),
            (Codec::Snappy, snap::raw::Encoder::new().compress_vec(&text).unwrap()),
            (Codec::Gzip, gzip.finish().unwrap()),
            (Codec::Zstd, zstd::encode_all(&text[..], 1).unwrap()),
        ] {
            let packed = Bytes::from(packed);
            assert_eq!(codec.unpack(packed.clone(), text.len()).unwrap(), text, "{codec:?}");
            for size in [0, text.len() - 1, text.len() + 1, usize::MAX] {
                assert!(codec.unpack(packed.clone(), size).is_err(), "{codec:?} {size}");
            }
            assert!(codec.unpack(packed.slice(..packed.len() - 1), text.len()).is_err(), "{codec:?}");
        }
        // Snappy says its size itself: here 4 GB in five bytes.
        let bomb = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        assert!(Codec::Snappy.unpack(bomb.clone(), u32::MAX as usize).is_err());
        assert!(Codec::Lz4.unpack(bomb, u32::MAX as usize).is_err());
    }
}
