//! A sequence of draws from one stream of counter-based random numbers.

use crate::random::Stream;

/// A stream with the position of its next draw.
pub(super) struct Draws {
    stream: Stream,
    position: u32,
}

impl Draws {
    /// Draws from the stream's first position on.
    pub fn new(stream: Stream) -> Self {
        Self { stream, position: 0 }
    }

    fn next(&mut self) -> u32 {
        self.position += 1;
        self.position - 1
    }

    /// A whole number in `0..n`, n ≥ 1.
    pub fn below(&mut self, n: usize) -> usize {
        let position = self.next();
        self.stream.below(position, n)
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        let position = self.next();
        f64::from(self.stream.uniform(position)) < probability
    }

    /// `COUNT` different elements of `choices`, in random order.
    pub fn distinct<T: Copy, const COUNT: usize>(&mut self, choices: &[T]) -> [T; COUNT] {
        let mut remaining = choices.to_vec();
        std::array::from_fn(|_| remaining.remove(self.below(remaining.len())))
    }
}
