//! Races between the blocks of one launch: two blocks access a byte, at least one access is a plain write, and nothing
//! orders them.

use std::collections::HashMap;

/// The block that accesses device memory, and how.
#[derive(Clone, Copy, Debug)]
pub struct BlockAccess {
    /// Whether to look for races: checks are on and the launch has several blocks.
    pub tracked: bool,
    /// Atomic or strong (`.volatile`, `.relaxed` …): such accesses do not race with each other.
    pub atomic: bool,
    /// Launch number, counted from 1; never 0.
    pub launch: u32,
    /// Index of the block in the launch.
    pub block: u32,
}

/// Synchronisation between blocks of a launch. A block that executes a fence and then an atomic operation **releases**
/// its earlier accesses; a block that later executes an atomic operation at the same address **acquires** them. (The
/// pattern of kernels whose last block adds up the partial sums.) This is coarse: writes after the release count as
/// released too.
#[derive(Default)]
pub struct Releases {
    launch: u32,
    block: u32,
    /// Whether the running block has executed a fence.
    fenced: bool,
    /// By address: the blocks that released there, each with its rank.
    released: HashMap<u64, HashMap<u32, usize>>,
    /// By address: how many blocks had released when the running block acquired.
    acquired: HashMap<u64, usize>,
}

impl Releases {
    /// A different block, possibly of a different launch, runs from now on.
    #[inline(always)]
    pub fn enter(&mut self, who: BlockAccess) {
        if self.launch != who.launch {
            *self = Releases { launch: who.launch, block: who.block, ..Releases::default() };
        } else if self.block != who.block {
            self.block = who.block;
            self.fenced = false;
            self.acquired.clear();
        }
    }

    pub fn fence(&mut self) {
        self.fenced = true;
    }

    /// An atomic operation of the running block.
    pub fn atomic(&mut self, address: u64) {
        let released = self.released.entry(address).or_default();
        self.acquired.insert(address, released.len());
        if self.fenced {
            let next = released.len();
            released.entry(self.block).or_insert(next);
        }
    }

    /// Whether the running block acquired what `other` released.
    fn ordered(&self, other: u32) -> bool {
        let released_before = |(address, count): (&u64, &usize)| {
            self.released.get(address).and_then(|blocks| blocks.get(&other)).is_some_and(|rank| rank < count)
        };
        self.acquired.iter().any(released_before)
    }
}

const NOBODY: u32 = u32::MAX;
const SEVERAL: u32 = u32::MAX - 1;

/// Accesses of one launch to one 4-byte word.
#[derive(Clone, Copy)]
struct Word {
    launch: u32,
    writer: u32,
    reader: u32,
    /// Bytes written (low four bits) and read (high four bits).
    bytes: u8,
    /// The last writes were all atomic.
    atomic: bool,
    /// Blocks share the word but no byte of it: its bytes are in `Races::bytes`.
    split: bool,
}

const FRESH: Word = Word { launch: 0, writer: NOBODY, reader: NOBODY, bytes: 0, atomic: false, split: false };

/// Accesses of one launch to one allocation.
#[derive(Default)]
pub struct Races {
    words: Vec<Word>,
    /// Single bytes of split words, by offset.
    bytes: HashMap<usize, Word>,
}

impl Races {
    /// Records a read of `len` bytes at offset `at` in an allocation of `size` bytes. The error describes a race and
    /// names the other block.
    #[inline(always)]
    pub fn read(
        &mut self,
        size: usize,
        at: usize,
        len: usize,
        who: BlockAccess,
        releases: &Releases,
    ) -> Result<(), String> {
        self.grow(size);
        for w in at / 4..=(at + len - 1) / 4 {
            let mask = byte_mask(w, at, len);
            let word = &mut self.words[w];
            if word.launch != who.launch {
                let (reader, bytes) = if who.atomic { (NOBODY, 0) } else { (who.block, mask << 4) };
                *word = Word { launch: who.launch, reader, bytes, ..FRESH };
            } else if !word.split && (word.writer == NOBODY || word.writer == who.block || (word.atomic && who.atomic))
            {
                if !who.atomic {
                    word.reader = if word.reader == NOBODY || word.reader == who.block { who.block } else { SEVERAL };
                    word.bytes |= mask << 4;
                }
            } else {
                self.bytewise(w, mask, who, false, releases)?;
            }
        }
        Ok(())
    }

    /// Records a write.
    #[inline(always)]
    pub fn write(
        &mut self,
        size: usize,
        at: usize,
        len: usize,
        who: BlockAccess,
        releases: &Releases,
    ) -> Result<(), String> {
        self.grow(size);
        for w in at / 4..=(at + len - 1) / 4 {
            let mask = byte_mask(w, at, len);
            let word = &mut self.words[w];
            if word.launch != who.launch {
                let atomic = who.atomic;
                *word = Word { launch: who.launch, writer: who.block, bytes: mask, atomic, ..FRESH };
            } else if !word.split
                && (word.writer == NOBODY || word.writer == who.block || (word.atomic && who.atomic))
                && (word.reader == NOBODY || word.reader == who.block)
            {
                word.atomic = who.atomic && (word.atomic || word.writer == NOBODY);
                word.writer = if word.writer == NOBODY || word.writer == who.block { who.block } else { SEVERAL };
                word.bytes |= mask;
            } else {
                self.bytewise(w, mask, who, true, releases)?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn grow(&mut self, size: usize) {
        if self.words.is_empty() {
            self.words = vec![FRESH; size.div_ceil(4)];
        }
    }

    /// An access to a word that another block has accessed, checked byte by byte.
    #[cold]
    fn bytewise(
        &mut self,
        w: usize,
        mask: u8,
        who: BlockAccess,
        write: bool,
        releases: &Releases,
    ) -> Result<(), String> {
        let word = self.words[w];
        if !word.split {
            for b in 0..4 {
                let writer = if word.bytes >> b & 1 == 1 { word.writer } else { NOBODY };
                let reader = if word.bytes >> (b + 4) & 1 == 1 { word.reader } else { NOBODY };
                self.bytes.insert(4 * w + b, Word { writer, reader, ..word });
            }
            self.words[w].split = true;
        }
        for b in (0..4).filter(|b| mask >> b & 1 == 1) {
            let byte = self.bytes.entry(4 * w + b).or_insert(FRESH);
            let other = |block: u32| block != NOBODY && block != who.block && !releases.ordered(block);
            let other_wrote = other(byte.writer) && !(byte.atomic && who.atomic);
            let other_read = other(byte.reader);
            if other_wrote || (write && other_read) {
                let (other, did) = if other_wrote { (byte.writer, "written") } else { (byte.reader, "read") };
                let other = if other == SEVERAL { "other blocks".to_owned() } else { format!("block {other}") };
                let kind = if write { "write" } else { "read" };
                let message = format!("a race between blocks: a {kind} of byte {}", 4 * w + b);
                return Err(format!("{message}, {did} by {other} in the same launch with nothing that orders the two"));
            }
            if write {
                byte.atomic = who.atomic && (byte.atomic || byte.writer == NOBODY);
                // After ordered plain writes the last writer counts; after atomic ones all writers count.
                byte.writer = if byte.writer == NOBODY || !byte.atomic { who.block } else { SEVERAL };
            } else if !who.atomic {
                byte.reader = if byte.reader == NOBODY || byte.reader == who.block { who.block } else { SEVERAL };
            }
        }
        Ok(())
    }
}

/// Which bytes of word `w` lie in `at..at + len`.
#[inline(always)]
fn byte_mask(w: usize, at: usize, len: usize) -> u8 {
    let (first, end) = (at.max(4 * w) - 4 * w, (at + len).min(4 * w + 4) - 4 * w);
    (0xF << first) & (0xF >> (4 - end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(block: u32) -> BlockAccess {
        BlockAccess { tracked: true, atomic: false, launch: 1, block }
    }

    fn atomic(block: u32) -> BlockAccess {
        BlockAccess { atomic: true, ..plain(block) }
    }

    #[test]
    fn blocks_may_read_the_same_byte_and_write_different_ones() {
        let (mut r, unordered) = (Races::default(), Releases::default());
        (0..3).for_each(|b| r.read(64, 0, 32, plain(b), &unordered).unwrap());
        (0..16).for_each(|b| r.write(64, 32 + 2 * b as usize, 2, plain(b), &unordered).unwrap());
        (0..16).for_each(|b| r.read(64, 32 + 2 * b as usize, 2, plain(b), &unordered).unwrap());
    }

    #[test]
    fn a_plain_write_races_with_other_blocks() {
        let (mut r, unordered) = (Races::default(), Releases::default());
        r.write(64, 0, 4, plain(0), &unordered).unwrap();
        assert!(r.write(64, 0, 4, plain(1), &unordered).unwrap_err().contains("written by block 0"));
        let (mut r, unordered) = (Races::default(), Releases::default());
        r.write(64, 0, 16, plain(0), &unordered).unwrap();
        assert!(r.read(64, 14, 1, plain(1), &unordered).is_err());
        let (mut r, unordered) = (Races::default(), Releases::default());
        r.read(64, 4, 4, plain(0), &unordered).unwrap();
        assert!(r.write(64, 7, 1, plain(1), &unordered).unwrap_err().contains("read by block 0"));
        let (mut r, unordered) = (Races::default(), Releases::default());
        r.write(64, 0, 2, plain(0), &unordered).unwrap();
        r.write(64, 2, 2, plain(1), &unordered).unwrap();
        assert!(r.read(64, 0, 4, plain(0), &unordered).is_err(), "the other half belongs to block 1");
    }

    #[test]
    fn atomics_race_only_with_plain_accesses() {
        let (mut r, unordered) = (Races::default(), Releases::default());
        (0..5).for_each(|b| r.write(64, 0, 4, atomic(b), &unordered).unwrap());
        assert!(r.read(64, 0, 4, plain(9), &unordered).is_err());
        let (mut r, unordered) = (Races::default(), Releases::default());
        r.write(64, 0, 4, plain(0), &unordered).unwrap();
        assert!(r.write(64, 0, 4, atomic(1), &unordered).is_err());
    }

    #[test]
    fn a_fence_and_an_atomic_order_blocks() {
        let counter = 0x7000;
        for (fences, acquires, ordered) in [(true, true, true), (false, true, false), (true, false, false)] {
            let (mut r, mut releases) = (Races::default(), Releases::default());
            for block in 0..3 {
                releases.enter(plain(block));
                r.write(64, 4 * block as usize, 4, plain(block), &releases).unwrap();
                if fences {
                    releases.fence();
                }
                releases.atomic(counter);
            }
            releases.enter(plain(3));
            if acquires {
                releases.atomic(counter);
            }
            for block in 0..3 {
                assert_eq!(r.read(64, 4 * block, 4, plain(3), &releases).is_ok(), ordered, "{fences} {acquires}");
            }
            assert_eq!(r.write(64, 0, 4, plain(3), &releases).is_ok(), ordered);
        }
    }

    #[test]
    fn the_next_launch_starts_clean() {
        let (mut r, unordered) = (Races::default(), Releases::default());
        r.write(64, 0, 4, plain(0), &unordered).unwrap();
        r.read(64, 0, 4, BlockAccess { launch: 2, ..plain(1) }, &unordered).unwrap();
        assert!(r.write(64, 0, 4, BlockAccess { launch: 2, ..plain(0) }, &unordered).is_err());
    }
}
