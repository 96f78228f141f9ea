//! Arguments of ops in several copies, used one after another, so that no call finds its inputs in the L2 cache; and outputs that
//! show whether an op wrote them.

use std::cell::Cell;
use std::rc::Rc;

use half::bf16;
use patarm::cuda::{Buffer, Cuda, View, ViewMut};
use patarm::ops::OpError;
use patarm::ops::linear::{Linear, LinearSizes};
use patarm::random::Stream;
use patarm::tensor::{Device, Element};

/// L2 caches of data between two uses of a copy.
pub const CACHES: usize = 4;
/// At most this many copies of the arguments of one call; only arguments of a few kilobytes would need more.
const COPIES_MAX: usize = 4096;
/// Where copies start, in bytes: kernels choose their widest loads by the address.
const ALIGNMENT: usize = 512;
/// Random numbers drawn for a buffer, which repeats them. A prime, so that rows differ.
const DRAWN: usize = 262_147;
/// An output is checked in windows: all of it if it has up to 16 of them, otherwise 16 spread over it, including both ends.
const WINDOW: usize = 65_536;
const WINDOWS: usize = 16;

/// An element that can be random or poisoned.
pub trait Value: Element {
    /// All bits set: in a float, a NaN that no arithmetic produces.
    const POISON: Self;
    fn from_f32(value: f32) -> Self;
    fn is_number(self) -> bool;
}

macro_rules! values {
    ($($type:ty, $poison:expr, $from:expr, $is_number:expr);*) => {
        $(impl Value for $type {
            const POISON: Self = $poison;
            fn from_f32(value: f32) -> Self {
                $from(value)
            }
            fn is_number(self) -> bool {
                $is_number(self)
            }
        })*
    };
}

values!(
    bf16, bf16::from_bits(u16::MAX), bf16::from_f32, |value: bf16| value.is_finite();
    f32, f32::from_bits(u32::MAX), |value| value, f32::is_finite;
    f64, f64::from_bits(u64::MAX), f64::from, f64::is_finite;
    u32, u32::MAX, |value| value as u32, |_| true
);

fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Makes the arguments of one row, all with the same number of copies.
pub struct Set<'a> {
    device: &'a Cuda,
    /// 0 while bytes are counted: buffers are then empty.
    copies: usize,
    bytes: Cell<usize>,
}

impl<'a> Set<'a> {
    /// Calls `make` twice: first to count the bytes of a copy, then with enough copies to fill the L2 cache
    /// [`CACHES`] times. `fewest`: the minimum number of copies.
    pub fn fill<T>(
        device: &'a Cuda,
        fewest: usize,
        l2_bytes: usize,
        make: impl Fn(&Self) -> Result<T, OpError>,
    ) -> Result<(usize, T), OpError> {
        let counting = Set { device, copies: 0, bytes: Cell::new(0) };
        make(&counting)?;
        let copies = (CACHES * l2_bytes).div_ceil(counting.bytes.get().max(1)).clamp(fewest, COPIES_MAX);
        Ok((copies, make(&Set { device, copies, bytes: Cell::new(0) })?))
    }

    fn rotating<T: Value>(&self, len: usize, role: Role, pattern: Vec<T>) -> Result<Rotating<T>, OpError> {
        let stride = len.next_multiple_of(ALIGNMENT / size_of::<T>());
        self.bytes.set(self.bytes.get() + stride * size_of::<T>());
        let buffer = self.device.repeated(self.copies * stride, &pattern)?;
        let (device, copies, checked) = (self.device.clone(), self.copies, Cell::new(true));
        Ok(Rotating { device, buffer, len, stride, copies, role, pattern, checked })
    }

    fn random<T: Value>(&self, len: usize, from: f32) -> Vec<T> {
        // Other numbers for each argument: where a moment equals the gradient, an update leaves it as it is.
        let stream = Stream::new(len as u64).fold(self.bytes.get() as u64);
        let count = if self.copies == 0 { 0 } else { (self.copies * len.next_multiple_of(ALIGNMENT)).min(DRAWN) };
        (0..count as u32).map(|i| T::from_f32(stream.uniform(i) + from)).collect()
    }

    /// Random numbers from −0.5 to 0.5, only read.
    pub fn input<T: Value>(&self, len: usize) -> Result<Rotating<T>, OpError> {
        self.rotating(len, Role::Read, self.random(len, -0.5))
    }

    /// Random numbers from 0 to 1, only read.
    pub fn positive<T: Value>(&self, len: usize) -> Result<Rotating<T>, OpError> {
        self.rotating(len, Role::Read, self.random(len, 0.0))
    }

    /// Numbers by (copy, element), only read.
    pub fn words(&self, len: usize, word: impl Fn(usize, usize) -> u32) -> Result<Rotating<u32>, OpError> {
        let stride = len.next_multiple_of(ALIGNMENT / 4);
        let at = |i: usize| (i / stride, i % stride);
        let word = |(copy, element)| if element < len { word(copy, element) } else { 0 };
        self.rotating(len, Role::Read, (0..self.copies * stride).map(|i| word(at(i))).collect())
    }

    /// Poisoned: the op must write every element.
    pub fn output<T: Value>(&self, len: usize) -> Result<Rotating<T>, OpError> {
        self.rotating(len, Role::Written, vec![T::POISON])
    }

    /// Random numbers from −0.5 to 0.5 that the op adds to or changes in place: some must differ afterwards.
    pub fn changed<T: Value>(&self, len: usize) -> Result<Rotating<T>, OpError> {
        self.rotating(len, Role::Changed, self.random(len, -0.5))
    }

    /// The same with positive numbers.
    pub fn changed_positive<T: Value>(&self, len: usize) -> Result<Rotating<T>, OpError> {
        self.rotating(len, Role::Changed, self.random(len, 0.0))
    }

    /// Prepared weights.
    pub fn weight(&self, sizes: LinearSizes) -> Result<Vec<Weight>, OpError> {
        self.bytes.set(self.bytes.get() + sizes.len() * size_of::<bf16>());
        let len = if self.copies == 0 { 0 } else { sizes.len() };
        let master = self.device.repeated(len, &self.random::<f32>(len, -0.5))?;
        let copy = |_| {
            let mut weight = self.device.linear_weight(sizes)?;
            self.device.linear_prepare(&mut weight, self.device.view(&master, 0..len), sizes)?;
            Ok::<_, OpError>(weight)
        };
        (0..self.copies).map(copy).collect()
    }
}

pub type Weight = <Cuda as Linear>::Weight;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Read,
    Written,
    Changed,
}

/// One argument, in consecutive copies.
pub struct Rotating<T: Value> {
    device: Cuda,
    buffer: Buffer<T>,
    len: usize,
    stride: usize,
    copies: usize,
    role: Role,
    /// The initial contents, repeated over the buffer.
    pattern: Vec<T>,
    /// False since the buffer was last written: a row that forgets to check one of its outputs fails.
    checked: Cell<bool>,
}

impl<T: Value> Rotating<T> {
    fn start(&self, copy: usize) -> usize {
        copy % self.copies.max(1) * self.stride
    }

    pub fn at(&self, copy: usize) -> View<'_, T> {
        let start = self.start(copy);
        self.device.view(&self.buffer, start..start + self.len)
    }

    pub fn at_mut(&mut self, copy: usize) -> ViewMut<'_, T> {
        let start = self.start(copy);
        self.checked.set(false);
        self.device.view_mut(&mut self.buffer, start..start + self.len)
    }

    /// First elements of the checked windows, within a copy.
    fn windows(&self) -> Rc<[usize]> {
        let all = self.len.div_ceil(WINDOW);
        let last = self.len.saturating_sub(WINDOW);
        if all <= WINDOWS {
            return (0..all).map(|window| window * WINDOW).collect();
        }
        (0..WINDOWS).map(|window| last / (WINDOWS - 1) * window).chain([last]).collect()
    }
}

impl<T: Value> Drop for Rotating<T> {
    fn drop(&mut self) {
        assert!(self.checked.get() || std::thread::panicking(), "an output was not looked at");
    }
}

/// An argument that an op writes.
pub trait Output {
    /// What is wrong with it after every copy was used. Checks the first, the middle and the last copy.
    fn fault(&self) -> Result<Option<String>, OpError>;
    /// The row has failed already; do not check this output.
    fn give_up(&self);
}

impl<T: Value> Output for Rotating<T> {
    fn fault(&self) -> Result<Option<String>, OpError> {
        self.checked.set(true);
        let windows = self.windows();
        for copy in [0, self.copies / 2, self.copies.saturating_sub(1)] {
            let mut changed = self.len == 0;
            for first in windows.iter() {
                let start = self.start(copy) + first;
                let end = start + WINDOW.min(self.len - first);
                let values = self.device.download(self.device.view(&self.buffer, start..end))?;
                let before = self.pattern.iter().cycle().skip(start % self.pattern.len());
                for (offset, (value, before)) in values.into_iter().zip(before).enumerate() {
                    let same = bytes_of(&[value]) == bytes_of(&[*before]);
                    changed |= !same;
                    let index = first + offset;
                    if self.role == Role::Written && same {
                        return Ok(Some(format!("element {index} of {} was not written (copy {copy})", self.len)));
                    }
                    if !value.is_number() {
                        return Ok(Some(format!("element {index} of {} is {value:?} (copy {copy})", self.len)));
                    }
                }
            }
            if !changed {
                return Ok(Some(format!("none of {} elements was changed (copy {copy})", self.len)));
            }
        }
        Ok(None)
    }

    fn give_up(&self) {
        self.checked.set(true);
    }
}
