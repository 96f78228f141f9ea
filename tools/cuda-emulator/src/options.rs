//! How a device behaves: its checks, the order of its blocks and warps, its limits.

use crate::tensor_core::Model;

#[derive(Clone, Debug)]
pub struct Options {
    /// Checks for races, reads of memory that was never written, and misuse of barriers and shuffles. Bounds are always
    /// checked.
    pub checks: bool,
    /// Seed for a random order of blocks, and of warps between two barriers. None: the natural order.
    pub order_seed: Option<u64>,
    /// Rounding of `mma.sync`. None: that of the compute capability (Ampere below 9.0).
    pub tensor_core: Option<Model>,
    /// Device memory in bytes.
    pub memory: u64,
    /// Compute capability: (8, 0) or (9, 0).
    pub capability: (u32, u32),
    /// After this many warp instructions, a launch counts as an endless loop.
    pub instruction_limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            checks: true,
            order_seed: None,
            tensor_core: None,
            memory: 16 << 30,
            capability: (8, 0),
            instruction_limit: 1 << 36,
        }
    }
}

impl Options {
    pub fn model(&self) -> Model {
        self.tensor_core.unwrap_or(if self.capability.0 >= 9 { Model::Hopper } else { Model::Ampere })
    }

    /// Shared memory available to one block, in bytes.
    pub fn shared_limit(&self) -> u32 {
        if self.capability.0 >= 9 { 227 << 10 } else { 163 << 10 }
    }
}
