//! Shared memory of a block, with checks for unordered accesses.
//!
//! Two accesses of different threads to a byte, at least one of them a write, must be ordered by a barrier of the block
//! (which increments the **epoch**) or, within a warp, by an instruction that synchronises the warp (shuffle, vote,
//! `bar.warp`, ldmatrix, mma: the warp's **sync** count). An asynchronous copy counts as a write from the moment it is
//! issued. The issuing thread may read its bytes after it has waited for the copy's group; other threads may read them
//! after a barrier that follows the wait.
//!
//! The shadow of a 4-byte word records its last writer and the readers since then. Kernels mostly access whole words;
//! masks distinguish the bytes of a word.

use crate::fault::{FaultKind, LaneFault};

/// A thread of the block at one point of its program.
#[derive(Clone, Copy, Debug)]
pub struct Accessor {
    /// Index in the block.
    pub thread: u32,
    /// Sync count of its warp.
    pub sync: u32,
}

impl Accessor {
    fn warp(self) -> u32 {
        self.thread / 32
    }
}

/// More than one warp has read the word.
const MANY: u32 = u32::MAX;
/// More than one thread of one warp has read the word: `READERS_OF_WARP + warp`.
const READERS_OF_WARP: u32 = 1 << 16;

#[derive(Clone, Copy)]
struct Word {
    /// Epochs of the last write and of the reads; 0: none.
    write_epoch: u32,
    read_epoch: u32,
    writer: u32,
    /// A thread, `READERS_OF_WARP` + a warp, or `MANY`.
    reader: u32,
    write_sync: u32,
    read_sync: u32,
    /// 1 + index of the writer's copy group, until the copy is visible to all threads.
    pending: u32,
    /// Bytes of the last writes, of the reads, and ever written.
    write_mask: u8,
    read_mask: u8,
    written: u8,
    /// The last writes were atomic operations.
    atomic: bool,
}

const FRESH: Word = Word {
    write_epoch: 0,
    read_epoch: 0,
    writer: 0,
    reader: 0,
    write_sync: 0,
    read_sync: 0,
    pending: 0,
    write_mask: 0,
    read_mask: 0,
    written: 0,
    atomic: false,
};

/// Copy groups of one thread.
#[derive(Clone, Default)]
struct Groups {
    /// Number of committed groups; the next copy joins group `committed`.
    committed: u32,
    /// The epoch of the wait for each group, oldest group first.
    completed: Vec<u32>,
}

pub struct SharedMemory {
    pub bytes: Vec<u8>,
    words: Vec<Word>,
    groups: Vec<Groups>,
    epoch: u32,
    checks: bool,
}

impl SharedMemory {
    pub fn new(size: u32, threads: u32, checks: bool) -> Self {
        SharedMemory {
            bytes: vec![0; size as usize],
            words: if checks { vec![FRESH; size.div_ceil(4) as usize] } else { Vec::new() },
            groups: vec![Groups::default(); threads as usize],
            epoch: 1,
            checks,
        }
    }

    /// Prepares for the next block: all bytes are uninitialised.
    pub fn reset(&mut self) {
        self.words.fill(FRESH);
        self.groups.fill(Groups::default());
        self.epoch = 1;
    }

    pub fn size(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// All threads of the block passed a barrier.
    pub fn barrier(&mut self) {
        self.epoch += 1;
    }

    #[inline(always)]
    fn offset(&self, at: u64, len: usize) -> Result<usize, LaneFault> {
        let inside = usize::try_from(at).ok().filter(|at| *at <= self.bytes.len() && len <= self.bytes.len() - at);
        inside.ok_or_else(|| {
            let size = self.bytes.len();
            let message = format!("{len} bytes at {at} of shared memory, of which the block has {size} bytes");
            LaneFault::new(FaultKind::IllegalAddress, message)
        })
    }

    #[inline(always)]
    pub fn load(&mut self, who: Accessor, at: u64, len: usize) -> Result<&[u8], LaneFault> {
        let at = self.offset(at, len)?;
        if self.checks {
            for w in at / 4..=(at + len - 1) / 4 {
                self.record_read(who, w, byte_mask(w, at, len))?;
            }
        }
        Ok(&self.bytes[at..at + len])
    }

    #[inline(always)]
    pub fn store(&mut self, who: Accessor, at: u64, len: usize) -> Result<&mut [u8], LaneFault> {
        let at = self.offset(at, len)?;
        if self.checks {
            for w in at / 4..=(at + len - 1) / 4 {
                self.record_write(who, w, byte_mask(w, at, len), false, 0)?;
            }
        }
        Ok(&mut self.bytes[at..at + len])
    }

    /// Bytes of an atomic operation; atomic operations do not race with each other.
    pub fn update(&mut self, who: Accessor, at: u64, len: usize) -> Result<&mut [u8], LaneFault> {
        let at = self.offset(at, len)?;
        if self.checks {
            for w in at / 4..=(at + len - 1) / 4 {
                let mask = byte_mask(w, at, len);
                if self.words[w].written & mask != mask {
                    return Err(unwritten(w));
                }
                self.record_write(who, w, mask, true, 0)?;
            }
        }
        Ok(&mut self.bytes[at..at + len])
    }

    /// The target of an asynchronous copy that is issued now.
    pub fn copy_target(&mut self, who: Accessor, at: u64, len: usize) -> Result<&mut [u8], LaneFault> {
        let at = self.offset(at, len)?;
        if self.checks {
            let pending = 1 + self.groups[who.thread as usize].committed;
            for w in at / 4..=(at + len - 1) / 4 {
                self.record_write(who, w, byte_mask(w, at, len), false, pending)?;
            }
        }
        Ok(&mut self.bytes[at..at + len])
    }

    /// `cp.async.commit_group`.
    pub fn commit(&mut self, thread: u32) {
        self.groups[thread as usize].committed += 1;
    }

    /// `cp.async.wait_group`: all but the latest `pending` groups are complete.
    pub fn wait(&mut self, thread: u32, pending: u32) {
        let (epoch, groups) = (self.epoch, &mut self.groups[thread as usize]);
        let done = groups.committed.saturating_sub(pending) as usize;
        if done > groups.completed.len() {
            groups.completed.resize(done, epoch);
        }
    }

    /// `cp.async.wait_all`: also completes the open group.
    pub fn wait_all(&mut self, thread: u32) {
        self.commit(thread);
        self.wait(thread, 0);
    }

    #[inline(always)]
    fn record_read(&mut self, who: Accessor, w: usize, mask: u8) -> Result<(), LaneFault> {
        let epoch = self.epoch;
        let word = &mut self.words[w];
        if word.written & mask != mask {
            return Err(unwritten(w));
        }
        if word.pending != 0 {
            check_pending(word, &self.groups, who, epoch).map_err(|state| early("read", state, w))?;
        }
        if word.write_epoch == epoch && word.writer != who.thread && word.write_mask & mask != 0 && unordered(word, who)
        {
            return Err(race("read", w, who, &format!("written by thread {}", word.writer)));
        }
        if word.read_epoch != epoch {
            (word.read_epoch, word.reader, word.read_mask) = (epoch, who.thread, mask);
        } else {
            word.read_mask |= mask;
            if word.reader != who.thread {
                let warp = READERS_OF_WARP + who.warp();
                let same = word.reader == warp || (word.reader < READERS_OF_WARP && word.reader / 32 == who.warp());
                word.reader = if same { warp } else { MANY };
            }
        }
        word.read_sync = who.sync;
        Ok(())
    }

    #[inline(always)]
    fn record_write(&mut self, who: Accessor, w: usize, mask: u8, atomic: bool, pending: u32) -> Result<(), LaneFault> {
        let epoch = self.epoch;
        let word = &mut self.words[w];
        if word.pending != 0 {
            check_pending(word, &self.groups, who, epoch).map_err(|state| early("write", state, w))?;
        }
        let overlaps = word.write_epoch == epoch && word.write_mask & mask != 0;
        if overlaps && word.writer != who.thread && !(atomic && word.atomic) && unordered(word, who) {
            return Err(race("write", w, who, &format!("written by thread {}", word.writer)));
        }
        if word.read_epoch == epoch && word.reader != who.thread && word.read_mask & mask != 0 {
            let warp = READERS_OF_WARP + who.warp();
            let inside = word.reader == warp || (word.reader < READERS_OF_WARP && word.reader / 32 == who.warp());
            if !inside || word.read_sync == who.sync {
                let reader = match word.reader {
                    MANY => "other warps".to_owned(),
                    r if r >= READERS_OF_WARP => format!("threads of warp {}", r - READERS_OF_WARP),
                    r => format!("thread {r}"),
                };
                return Err(race("write", w, who, &format!("read by {reader}")));
            }
        }
        let fresh = word.write_epoch != epoch || word.writer != who.thread;
        word.write_mask = if fresh { mask } else { word.write_mask | mask };
        word.atomic = atomic && (fresh || word.atomic);
        (word.write_epoch, word.writer, word.write_sync, word.pending) = (epoch, who.thread, who.sync, pending);
        word.written |= mask;
        Ok(())
    }
}

/// Whether the word's last write and this access by another thread in the same epoch are unordered.
#[inline(always)]
fn unordered(word: &Word, who: Accessor) -> bool {
    word.writer / 32 != who.warp() || word.write_sync == who.sync
}

/// Checks whether `who` can see the pending copy of a word, and clears the mark once all threads can. The error says
/// what is missing.
#[cold]
#[inline(never)]
fn check_pending(word: &mut Word, groups: &[Groups], who: Accessor, epoch: u32) -> Result<(), &'static str> {
    let completed = groups[word.writer as usize].completed.get(word.pending as usize - 1);
    match completed {
        None => Err("is not complete: no cp.async.wait has waited for its group"),
        Some(done) if epoch > *done => {
            word.pending = 0;
            Ok(())
        }
        Some(_) if word.writer == who.thread => Ok(()),
        Some(_) => Err("is complete only for the thread that issued it: no barrier follows the wait"),
    }
}

#[cold]
fn early(what: &str, state: &str, w: usize) -> LaneFault {
    let message = format!("a {what} of shared memory at {} while an asynchronous copy to it {state}", 4 * w);
    LaneFault::new(FaultKind::Race, message)
}

#[cold]
fn unwritten(w: usize) -> LaneFault {
    LaneFault::new(FaultKind::Uninitialised, format!("a read of shared memory at {}, which was never written", 4 * w))
}

#[cold]
fn race(what: &str, w: usize, who: Accessor, other: &str) -> LaneFault {
    let message = format!(
        "a race in shared memory: a {what} at {} by thread {}, {other} with no barrier between the two",
        4 * w,
        who.thread
    );
    LaneFault::new(FaultKind::Race, message)
}

/// Which bytes of word `w` lie in `at..at + len`.
#[inline(always)]
fn byte_mask(w: usize, at: usize, len: usize) -> u8 {
    let (first, end) = (at.max(4 * w) - 4 * w, (at + len).min(4 * w + 4) - 4 * w);
    (0xF << first) & (0xF >> (4 - end))
}

/// Extra passes that an access of a warp takes: lanes that want different words of one bank are served one after the
/// other. `len` ≤ 4 bytes per lane; wider accesses are split into parts of 128 bytes, as the hardware does.
pub fn bank_conflicts(mask: u32, at: &[u64; 32], len: u32) -> u64 {
    let lanes_a_part = (128 / len.max(4)).min(32) as usize;
    let mut extra = 0;
    for first in (0..32).step_by(lanes_a_part) {
        let lanes = (first..first + lanes_a_part).filter(|l| mask >> l & 1 == 1);
        let words = lanes.flat_map(|lane| at[lane] / 4..=(at[lane] + u64::from(len) - 1) / 4);
        // Most accesses have at most one word per bank and need no lists.
        let mut word_of = [0; 32];
        let mut used = 0_u32;
        let is_free = words.clone().all(|word| {
            let bank = (word % 32) as usize;
            let is_new = used >> bank & 1 == 0;
            used |= 1 << bank;
            word_of[bank] = if is_new { word } else { word_of[bank] };
            word_of[bank] == word
        });
        if !is_free {
            extra += most_words_of_a_bank(words) - 1;
        }
    }
    extra
}

/// The largest number of different words that fall into one bank.
fn most_words_of_a_bank(words: impl Iterator<Item = u64>) -> u64 {
    let mut banks = [const { Vec::<u64>::new() }; 32];
    for word in words {
        let bank = &mut banks[(word % 32) as usize];
        if !bank.contains(&word) {
            bank.push(word);
        }
    }
    banks.iter().map(|words| words.len() as u64).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> SharedMemory {
        SharedMemory::new(256, 64, true)
    }

    fn thread(thread: u32) -> Accessor {
        Accessor { thread, sync: 0 }
    }

    fn kind<T>(result: Result<T, LaneFault>) -> Option<FaultKind> {
        result.err().map(|t| t.kind)
    }

    #[test]
    fn a_barrier_orders_write_and_read() {
        let mut m = memory();
        m.store(thread(0), 8, 4).unwrap();
        m.load(thread(0), 8, 4).unwrap();
        assert_eq!(kind(m.load(thread(33), 8, 4)), Some(FaultKind::Race));
        m.barrier();
        m.load(thread(33), 8, 4).unwrap();
        assert_eq!(kind(m.store(thread(0), 8, 4)), Some(FaultKind::Race), "read in this epoch");
        m.barrier();
        m.store(thread(0), 8, 4).unwrap();
    }

    #[test]
    fn a_shuffle_orders_only_its_own_warp() {
        let mut m = memory();
        m.store(thread(0), 0, 4).unwrap();
        assert_eq!(kind(m.load(thread(1), 0, 4)), Some(FaultKind::Race));
        m.load(Accessor { thread: 1, sync: 1 }, 0, 4).unwrap();
        assert_eq!(kind(m.load(Accessor { thread: 40, sync: 1 }, 0, 4)), Some(FaultKind::Race));
    }

    #[test]
    fn bytes_of_a_word_belong_to_different_threads() {
        let mut m = memory();
        m.store(thread(0), 0, 2).unwrap();
        m.store(thread(40), 2, 2).unwrap();
        assert_eq!(kind(m.store(thread(41), 3, 1)), Some(FaultKind::Race));
        assert_eq!(kind(m.load(thread(0), 4, 2)), Some(FaultKind::Uninitialised));
    }

    #[test]
    fn several_readers_and_a_writer() {
        let mut m = memory();
        m.store(thread(0), 0, 4).unwrap();
        m.barrier();
        (0..64).for_each(|t| assert_eq!(m.load(thread(t), 0, 4).unwrap().len(), 4));
        assert_eq!(kind(m.store(thread(0), 0, 4)), Some(FaultKind::Race));
    }

    #[test]
    fn atomics_do_not_race_with_each_other() {
        let mut m = memory();
        m.store(thread(0), 0, 4).unwrap();
        m.barrier();
        (0..64).for_each(|t| assert_eq!(m.update(thread(t), 0, 4).unwrap().len(), 4));
        assert_eq!(kind(m.load(thread(3), 0, 4)), Some(FaultKind::Race));
    }

    #[test]
    fn a_copy_is_complete_after_the_wait_and_visible_after_the_barrier() {
        let mut m = memory();
        m.copy_target(thread(0), 0, 16).unwrap();
        m.commit(0);
        m.copy_target(thread(0), 16, 16).unwrap();
        m.commit(0);
        m.barrier();
        assert_eq!(kind(m.load(thread(0), 0, 4)), Some(FaultKind::Race), "not waited for");
        m.wait(0, 1);
        m.load(thread(0), 0, 4).unwrap();
        assert_eq!(kind(m.load(thread(0), 16, 4)), Some(FaultKind::Race), "the second group may still be in flight");
        assert_eq!(kind(m.load(thread(1), 0, 4)), Some(FaultKind::Race), "no barrier since the wait");
        m.barrier();
        m.load(thread(1), 0, 4).unwrap();
        m.wait_all(0);
        m.barrier();
        m.load(thread(63), 28, 4).unwrap();
    }

    #[test]
    fn a_copy_counts_as_a_write_when_it_is_issued() {
        let mut m = memory();
        m.store(thread(5), 0, 4).unwrap();
        m.barrier();
        m.load(thread(40), 0, 4).unwrap();
        assert_eq!(kind(m.copy_target(thread(5), 0, 4)), Some(FaultKind::Race));
    }

    #[test]
    fn bank_conflicts_per_access() {
        let stride = |bytes: u64| std::array::from_fn(|lane| lane as u64 * bytes);
        assert_eq!(bank_conflicts(u32::MAX, &stride(4), 4), 0);
        assert_eq!(bank_conflicts(u32::MAX, &stride(128), 4), 31);
        assert_eq!(bank_conflicts(0xFF, &stride(128), 4), 7);
        assert_eq!(bank_conflicts(u32::MAX, &stride(0), 4), 0, "a broadcast");
        assert_eq!(bank_conflicts(u32::MAX, &stride(8), 4), 1);
        assert_eq!(bank_conflicts(u32::MAX, &stride(16), 16), 0, "four parts of eight lanes");
        assert_eq!(bank_conflicts(u32::MAX, &stride(128), 16), 28);
    }
}
