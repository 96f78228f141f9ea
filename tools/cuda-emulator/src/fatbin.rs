//! Fat binaries of `nvcc -fatbin`: lists their PTX texts and chooses the one that a device runs.
//!
//! NVIDIA does not document the container. The layout here was read off files of nvcc 13.0 (all numbers little endian):
//! a header with magic, version, its own length and the length of the rest; then entries, each with a header (kind, its
//! own length, length of the data, compressed length, architecture …) and data padded to a multiple of 8 bytes.

use crate::ptx::Target;

const MAGIC: u32 = 0xba55_ed50;
const HEADER: usize = 16;
/// The part of an entry's header that is read here; its options follow.
const ENTRY_HEADER: usize = 64;
const KIND_PTX: u16 = 1;
/// Bits of an entry's flags for compressed data (0x8000: zstd; 0x2000: LZ4, from older compilers).
const FLAGS_COMPRESSED: u64 = 0xa000;

/// A PTX text of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtxText<'a> {
    /// From its `.target` line.
    pub target: Target,
    pub text: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FatbinError {
    #[error("the image is damaged: {0}")]
    Damaged(String),
    #[error("the PTX for sm_{0} is compressed: compile with `nvcc -fatbin --no-compress`")]
    Compressed(u32),
    #[error(
        "the image has no PTX, only machine code: the emulator runs PTX, so name a `compute_` target in `-gencode code=`"
    )]
    NoPtx,
    #[error("no PTX of the image runs on compute capability {capability}; it has PTX for {held}")]
    NoneFor { capability: String, held: String },
}

/// Chooses the PTX of an image (a fat binary or plain PTX) that runs on a device of this compute capability. Candidates
/// are texts for exactly this architecture (`sm_90a` runs only on 9.0) and for older ones (`sm_80` runs on everything
/// from 8.0); the newest wins.
///
/// # Errors
/// No text fits, the chosen text is compressed, or the image is damaged.
pub fn ptx_for(image: &[u8], capability: (u32, u32)) -> Result<&str, FatbinError> {
    let entries = entries(image)?;
    let runs = |target: &Target| {
        let version = (target.major, target.minor);
        version == capability || (!target.accelerated && version < capability)
    };
    let best = entries
        .iter()
        .filter(|entry| runs(&entry.target()))
        .max_by_key(|entry| (entry.target().major, entry.target().minor, entry.target().accelerated));
    match best {
        Some(Entry::Text(found)) => Ok(found.text),
        Some(Entry::Compressed(target)) => Err(FatbinError::Compressed(target.major * 10 + target.minor)),
        None if entries.is_empty() => Err(FatbinError::NoPtx),
        None => Err(FatbinError::NoneFor {
            capability: format!("{}.{}", capability.0, capability.1),
            held: entries.iter().map(|entry| entry.target().to_string()).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// All PTX texts of an image, in file order.
///
/// # Errors
/// The image is damaged, or one of its texts is compressed.
pub fn ptx_texts(image: &[u8]) -> Result<Vec<PtxText<'_>>, FatbinError> {
    let text = |entry| match entry {
        Entry::Text(text) => Ok(text),
        Entry::Compressed(target) => Err(FatbinError::Compressed(target.major * 10 + target.minor)),
    };
    entries(image)?.into_iter().map(text).collect()
}

enum Entry<'a> {
    Text(PtxText<'a>),
    /// The target that the entry's header names.
    Compressed(Target),
}

impl Entry<'_> {
    fn target(&self) -> Target {
        match self {
            Entry::Text(text) => text.target,
            Entry::Compressed(target) => *target,
        }
    }
}

fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, FatbinError> {
    if read::<4>(image, 0).map(u32::from_le_bytes) != Some(MAGIC) {
        return Ok(vec![Entry::Text(ptx_text(image)?)]);
    }
    let damaged = |message: &str| FatbinError::Damaged(message.to_string());
    let header = read::<2>(image, 6).map(u16::from_le_bytes).ok_or_else(|| damaged("its header is cut off"))? as usize;
    let payload = read::<8>(image, 8).map(u64::from_le_bytes).ok_or_else(|| damaged("its header is cut off"))?;
    let end = usize::try_from(payload).ok().and_then(|payload| header.checked_add(payload));
    let image = match end {
        Some(end) if header >= HEADER => image.get(..end),
        _ => None,
    };
    let image = image.ok_or_else(|| damaged("it is shorter than its header says"))?;
    let mut found = Vec::new();
    let mut at = header;
    while at < image.len() {
        let entry = EntryHeader::read(image, at).ok_or_else(|| damaged("the header of an entry is cut off"))?;
        let data = entry.data(image, at).ok_or_else(|| damaged("an entry is longer than the image"))?;
        if entry.kind == KIND_PTX {
            found.push(entry.ptx(data)?);
        }
        // data() has checked that this does not overflow and moves forward.
        at += entry.header + entry.size;
    }
    Ok(found)
}

struct EntryHeader {
    kind: u16,
    header: usize,
    size: usize,
    compressed: u32,
    architecture: u32,
    flags: u64,
}

impl EntryHeader {
    fn read(image: &[u8], at: usize) -> Option<Self> {
        let bytes = image.get(at..)?.get(..ENTRY_HEADER)?;
        Some(EntryHeader {
            kind: u16::from_le_bytes(read(bytes, 0)?),
            header: u32::from_le_bytes(read(bytes, 4)?) as usize,
            size: usize::try_from(u64::from_le_bytes(read(bytes, 8)?)).ok()?,
            compressed: u32::from_le_bytes(read(bytes, 16)?),
            architecture: u32::from_le_bytes(read(bytes, 28)?),
            flags: u64::from_le_bytes(read(bytes, 40)?),
        })
    }

    fn data<'a>(&self, image: &'a [u8], at: usize) -> Option<&'a [u8]> {
        if self.header < ENTRY_HEADER {
            return None;
        }
        let start = at.checked_add(self.header)?;
        image.get(start..start.checked_add(self.size)?)
    }

    fn ptx<'a>(&self, data: &'a [u8]) -> Result<Entry<'a>, FatbinError> {
        if self.compressed != 0 || self.flags & FLAGS_COMPRESSED != 0 {
            let (major, minor) = (self.architecture / 10, self.architecture % 10);
            return Ok(Entry::Compressed(Target { major, minor, accelerated: false }));
        }
        Ok(Entry::Text(ptx_text(data)?))
    }
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The bytes up to the first zero, which must be a text with a `.target`.
fn ptx_text(bytes: &[u8]) -> Result<PtxText<'_>, FatbinError> {
    let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(&bytes[..length])
        .map_err(|_| FatbinError::Damaged("it is neither a fat binary nor text".to_string()))?;
    let target = crate::ptx::target_of(text)
        .map_err(|error| FatbinError::Damaged(format!("its PTX entry cannot be read: {error}")))?;
    Ok(PtxText { target, text })
}

#[cfg(test)]
mod tests;
