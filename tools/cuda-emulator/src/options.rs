//! How a device behaves: what it checks, in which order it runs blocks and warps, what it is.

use crate::tensor_core::Model;

#[derive(Clone, Debug)]
pub struct Options {
    /// Races, reads of memory that was never written, barrier and shuffle misuse. Bounds are always checked.
    pub checks: bool,
    /// Blocks, and warps between two barriers, run in an order drawn from this seed; None: in their natural order.
    pub order_seed: Option<u64>,
    /// Rounding of `mma.sync`; None: that of the capability (Ampere below 9.0).
    pub tensor_core: Option<Model>,
    /// Device memory in bytes.
    pub memory: u64,
    /// Compute capability: (8, 0) or (9, 0).
    pub capability: (u32, u32),
    /// Warp instructions of one launch after which it is taken for one that never ends.
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

    /// Shared memory that a block can have, in bytes.
    pub fn shared_limit(&self) -> u32 {
        if self.capability.0 >= 9 { 227 << 10 } else { 163 << 10 }
    }
}
