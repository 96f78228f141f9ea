//! A backend on paper: it imitates another one, but has no memory and computes nothing.
//!
//! Its buffers are entries of a ledger, its ops check their arguments and add up their costs. So a plan is made by the very
//! code that it is a plan of: what a run will hold in each phase, and what it will compute and move, is read off after a step
//! on paper. Everything that is read back is zero.

mod cpu;
pub(in crate::ops) mod cuda;
mod ops;

pub use cpu::OfCpu;
pub use cuda::OfCuda;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::attention::SegmentTable;
use super::linear::LinearSizes;
use super::{Cost, OpResult};
use crate::memory::phase::phase;
use crate::memory::{Entry, FreeList, Ledger, Phase};
use crate::tensor::{Device, DeviceError, Element, View};

/// A backend that can be imitated: its types, its sizes, and the scratch of its ops.
pub trait Imitated: Clone + Send + Sync + 'static {
    /// As [`Device::Compute`].
    type Compute: Element;
    /// As [`super::Backend::ROLLOUTS_EQUAL_TRAINING`].
    const ROLLOUTS_EQUAL_TRAINING: bool;
    /// Every buffer begins at a multiple of so many bytes.
    const ALIGNMENT: usize;

    /// The name of the hardware.
    fn name(&self) -> String;
    /// Elements of a prepared weight.
    fn weight_len(&self, sizes: LinearSizes) -> usize;
    /// As [`Device::workers`].
    fn workers(&self) -> usize;
    /// As [`Device::replay_size`].
    fn replay_size(&self, rows: usize) -> usize;
    /// As [`Device::logits_max`].
    fn logits_max(&self) -> Option<usize>;
    /// As [`Device::kv_cache_budget`].
    fn kv_cache_budget(&self, weight_bytes: usize) -> usize;
    /// As [`super::lm_head::LmHead::lm_head_chunk_rows`].
    fn lm_head_chunk_rows(&self, sizes: LinearSizes) -> usize;
    /// Refuses a chunk of the LM head that can never fit.
    fn lm_head_check_chunk(&self, chunk_rows: usize, sizes: LinearSizes) -> OpResult;
    /// Elements of f32 that the LM head keeps between calls, for chunks of so many logits.
    fn kept_logits(&self, logits: usize) -> usize;
    /// Bytes that an op takes while it runs, and those that it leaves for the ops after it.
    fn scratch(&self, op: &Op<'_>) -> [usize; 2];
}

/// An op, as far as its scratch depends on it.
pub enum Op<'a> {
    EmbeddingBackward { vocab: usize },
    RmsNormBackward { cols: usize },
    QkNormRopeBackward { head_dim: usize },
    AttentionForward { segments: &'a SegmentTable, q_heads: usize, head_dim: usize },
    AttentionBackward { segments: &'a SegmentTable, q_heads: usize },
    LmHeadLogits { rows: usize, sizes: LinearSizes },
    LmHeadLoss { chunk_rows: usize, gradient: bool, sizes: LinearSizes },
    Sample { draws: usize },
    AdamW { tensors: usize },
    ScoreMargin { pairs: usize, rollouts: usize },
    GlobalNorm,
}

/// A device that imitates `I`.
#[derive(Clone)]
pub struct Paper<I: Imitated> {
    imitated: I,
    ledger: Arc<Ledger>,
    books: Arc<Mutex<Books>>,
}

/// What else is written down.
#[derive(Default)]
struct Books {
    costs: BTreeMap<Phase, Cost>,
    /// The most bytes of scratch that an op took for itself, and what ops left for later ones
    scratch: [usize; 2],
    /// The logits that the LM head keeps
    logits: Option<PaperBuffer<f32>>,
    /// Where an arena would put every buffer
    addresses: FreeList,
}

/// Address space enough for every plan.
const SPACE: usize = 1 << 50;

/// Memory for `len` elements that nobody has.
pub struct PaperBuffer<T> {
    len: usize,
    _entry: Entry,
    _place: Place,
    of: PhantomData<T>,
}

/// The range of an arena that a buffer would have.
struct Place {
    books: std::sync::Weak<Mutex<Books>>,
    start: u64,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(books) = self.books.upgrade() {
            lock(&books).addresses.free(self.start, self.bytes);
        }
    }
}

/// A panic while the lock is held cannot leave the books half changed, so a poisoned lock is safe to use.
fn lock(books: &Mutex<Books>) -> std::sync::MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A range of a buffer.
#[derive(Clone, Copy)]
pub struct PaperView<'a, T> {
    len: usize,
    of: PhantomData<&'a T>,
}

impl<T> View for PaperView<'_, T> {
    fn len(&self) -> usize {
        self.len
    }
}

fn part<'a, T>(buffer: &PaperBuffer<T>, range: Range<usize>) -> PaperView<'a, T> {
    let Range { start, end } = range;
    assert!(start <= end && end <= buffer.len, "{start}..{end} is outside a buffer of {} elements", buffer.len);
    PaperView { len: end - start, of: PhantomData }
}

impl<I: Imitated> Paper<I> {
    /// A device with an empty ledger.
    pub fn new(imitated: I) -> Self {
        let mut books = Books::default();
        books.addresses.add_chunk(0, SPACE);
        Self { imitated, ledger: Arc::default(), books: Arc::new(Mutex::new(books)) }
    }

    /// What the ops of every phase cost.
    pub fn costs(&self) -> BTreeMap<Phase, Cost> {
        lock(&self.books).costs.clone()
    }

    /// The most bytes that ops took while they ran, beyond their arguments.
    pub fn scratch_bytes(&self) -> usize {
        lock(&self.books).scratch.iter().sum()
    }

    /// The address after the highest that any buffer has had.
    pub fn reserved_bytes(&self) -> usize {
        lock(&self.books).addresses.high_water() as usize
    }

    fn count(&self, cost: Cost) -> OpResult {
        *lock(&self.books).costs.entry(phase()).or_default() += cost;
        Ok(())
    }

    fn takes(&self, op: &Op<'_>) {
        let bytes = self.imitated.scratch(op);
        let scratch = &mut lock(&self.books).scratch;
        scratch.iter_mut().zip(bytes).for_each(|(most, bytes)| *most = bytes.max(*most));
    }

    /// The LM head keeps the logits of its largest chunk.
    fn keep_logits(&self, logits: usize) -> OpResult {
        let len = self.imitated.kept_logits(logits);
        let kept = lock(&self.books).logits.as_ref().map_or(0, |kept| kept.len);
        if len > kept {
            // What there was is given back first, outside the lock that giving back takes.
            let old = lock(&self.books).logits.take();
            drop(old);
            let new = self.named("scratch", || self.zeros(len))?;
            lock(&self.books).logits = Some(new);
        }
        Ok(())
    }
}

impl<I: Imitated> Device for Paper<I> {
    type Compute = I::Compute;
    type Buffer<T: Element> = PaperBuffer<T>;
    type View<'a, T: Element> = PaperView<'a, T>;
    type ViewMut<'a, T: Element> = PaperView<'a, T>;

    fn zeros<T: Element>(&self, len: usize) -> Result<PaperBuffer<T>, DeviceError> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| *bytes < SPACE);
        let bytes = bytes.ok_or_else(|| DeviceError(format!("out of memory: no machine has {len} elements")))?;
        let reserved = bytes.max(1).next_multiple_of(I::ALIGNMENT);
        let start = lock(&self.books).addresses.allocate(reserved);
        let start = start.ok_or_else(|| DeviceError("out of memory: no machine has that many bytes".into()))?;
        let place = Place { books: Arc::downgrade(&self.books), start, bytes: reserved };
        Ok(PaperBuffer { len, _entry: self.ledger.enter(bytes), _place: place, of: PhantomData })
    }

    fn ledger(&self) -> Arc<Ledger> {
        self.ledger.clone()
    }

    fn len<T: Element>(&self, buffer: &PaperBuffer<T>) -> usize {
        buffer.len
    }

    fn view<'a, T: Element>(&self, buffer: &'a PaperBuffer<T>, range: Range<usize>) -> PaperView<'a, T> {
        part(buffer, range)
    }

    fn view_mut<'a, T: Element>(&self, buffer: &'a mut PaperBuffer<T>, range: Range<usize>) -> PaperView<'a, T> {
        part(buffer, range)
    }

    fn view_two<'a, T: Element>(
        &self,
        buffer: &'a mut PaperBuffer<T>,
        ranges: [Range<usize>; 2],
    ) -> [PaperView<'a, T>; 2] {
        ranges.map(|range| part(buffer, range))
    }

    fn write<T: Element>(&self, to: PaperView<'_, T>, from: &[T]) -> Result<(), DeviceError> {
        assert_eq!(to.len, from.len(), "a view is written from a slice of its own length");
        Ok(())
    }

    /// There is nothing to fill.
    fn write_with<T: Element, E: From<DeviceError>>(
        &self,
        _to: PaperView<'_, T>,
        _fill: impl FnOnce(&mut [T]) -> Result<(), E>,
    ) -> Result<(), E> {
        Ok(())
    }

    fn read<T: Element>(&self, from: PaperView<'_, T>, to: &mut [T]) -> Result<(), DeviceError> {
        assert_eq!(from.len, to.len(), "a view is read into a slice of its own length");
        to.fill(T::zeroed());
        Ok(())
    }

    fn clear<T: Element>(&self, _view: PaperView<'_, T>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn copy<T: Element>(&self, to: PaperView<'_, T>, from: PaperView<'_, T>) -> Result<(), DeviceError> {
        assert_eq!(to.len, from.len, "both views of a copy must have the same length");
        Ok(())
    }

    fn replay_size(&self, rows: usize) -> usize {
        self.imitated.replay_size(rows)
    }

    fn logits_max(&self) -> Option<usize> {
        self.imitated.logits_max()
    }

    fn workers(&self) -> usize {
        self.imitated.workers()
    }

    fn kv_cache_budget(&self, weight_bytes: usize) -> usize {
        self.imitated.kv_cache_budget(weight_bytes)
    }
}
