//! The machine: a device that runs kernels.
//!
//! | file | what it is |
//! |---|---|
//! | here | the device and the inputs of a launch |
//! | `launch` | hardware limits; runs the blocks in sequence |
//! | `block` | the warps of a block, its barriers |
//! | `warp` | registers, and the diverged paths of a warp's lanes |
//! | `step` | runs instructions of a warp until it waits or ends |
//! | `access`, `atomic` | loads, stores and atomic operations of a warp |
//! | `tile` | asynchronous copies, ldmatrix, stmatrix |
//! | `collective` | shuffles, votes, matches, reductions |

mod access;
mod atomic;
mod block;
mod collective;
mod launch;
mod step;
mod tile;
mod warp;

use crate::counters::Counters;
use crate::fault::Fault;
use crate::ir::{Kernel, Program};
use crate::memory::global::GlobalMemory;
use crate::options::Options;

/// Start of the generic addresses of shared and local memory.
pub const SHARED_WINDOW: u64 = 0x0100_0000_0000;
pub const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Size of each window in bytes.
pub const WINDOW: u64 = 1 << 32;

/// Grid and block of a launch, and its dynamic shared memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

/// Device addresses of `Program::symbols`, in the same order.
#[derive(Clone, Debug, Default)]
pub struct SymbolAddresses(pub Vec<u64>);

/// A device: its memory, options and counters.
pub struct Device {
    pub memory: GlobalMemory,
    pub options: Options,
    pub counters: Counters,
    launches: u32,
}

impl Device {
    pub fn new(options: Options) -> Self {
        Self::numbered(options, 0)
    }

    /// A device whose addresses depend on its number.
    pub fn numbered(options: Options, number: u16) -> Self {
        let memory = GlobalMemory::new(options.memory, number, options.checks);
        Device { memory, options, counters: Counters::default(), launches: 0 }
    }

    /// Runs a kernel to its end. `parameters` has `kernel.parameter_bytes` bytes; `symbols` has an address for each
    /// symbol of the program. After a fault, memory stays as it was at that moment.
    pub fn launch(
        &mut self,
        program: &Program,
        kernel: &Kernel,
        symbols: &SymbolAddresses,
        config: &LaunchConfig,
        parameters: &[u8],
    ) -> Result<(), Fault> {
        // For the race shadow, launch 0 means "never".
        self.launches = self.launches.checked_add(1).unwrap_or(1);
        launch::run(self, &launch::Launch { program, kernel, symbols, config, parameters }, self.launches)
    }
}
