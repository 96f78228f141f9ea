//! The machine: a device that runs kernels.
//!
//! | file | what it is |
//! |---|---|
//! | here | the device and what a launch needs |
//! | `launch` | limits of the hardware; blocks one after the other |
//! | `block` | warps of a block, its barriers |
//! | `warp` | registers, and the paths that lanes of a warp are on |
//! | `step` | instructions of a warp, one after the other, until it waits or ends |
//! | `access` | loads and stores of a warp, atomics |
//! | `tile` | asynchronous copies, ldmatrix |
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

/// Where generic addresses of shared and of local memory begin.
pub const SHARED_WINDOW: u64 = 0x0100_0000_0000;
pub const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Bytes of each window.
pub const WINDOW: u64 = 1 << 32;

/// Grid and block of a launch, and its dynamic shared memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

/// Device addresses of `Program::symbols`, in their order.
#[derive(Clone, Debug, Default)]
pub struct SymbolAddresses(pub Vec<u64>);

/// A device: memory, and the order and checks of what runs on it.
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

    /// A device whose addresses differ from those of other numbers.
    pub fn numbered(options: Options, number: u16) -> Self {
        let memory = GlobalMemory::new(options.memory, number, options.checks);
        Device { memory, options, counters: Counters::default(), launches: 0 }
    }

    /// Runs a kernel to its end. `parameters` holds `kernel.parameter_bytes` bytes; `symbols` an address for each of the
    /// program's symbols. A fault leaves memory as it was at that moment.
    pub fn launch(
        &mut self,
        program: &Program,
        kernel: &Kernel,
        symbols: &SymbolAddresses,
        config: &LaunchConfig,
        parameters: &[u8],
    ) -> Result<(), Fault> {
        // Launch 0 means "never" to the shadow of races.
        self.launches = self.launches.checked_add(1).unwrap_or(1);
        launch::run(self, &launch::Launch { program, kernel, symbols, config, parameters }, self.launches)
    }
}
