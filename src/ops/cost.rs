//! What an op must at least move and compute: the floor that benches and logs compare against.

use std::ops::AddAssign;

/// Bytes read and written once each, and floating-point operations (a multiply-add counts two).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub bytes: u64,
    pub flops: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.flops += other.flops;
    }
}
