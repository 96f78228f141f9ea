//! Kernels as the host sees them: attributes, parameters, occupancy.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::attributes::{Multiprocessor, multiprocessor};
use super::context::Context;
use super::engine::{Globals, KernelInfo, Loaded};
use super::entry::{Out, entry};
use super::handle::Kind;
use super::registry;
use super::status::{Answer, Status};

/// Dynamic shared memory that a block gets without opting in, in bytes.
pub const SHARED_DEFAULT: u32 = 48 << 10;
const MAX_DYNAMIC_SHARED: i32 = 8;
const CARVEOUT: i32 = 9;

/// A kernel of a loaded module, with the attributes that the host set.
#[derive(Clone)]
pub struct Function {
    pub module: u32,
    pub index: usize,
    pub loaded: Arc<Loaded>,
    pub globals: Arc<Globals>,
    /// Maximum dynamic shared memory of a launch, in bytes.
    pub dynamic_shared_max: u32,
    carveout: i32,
}

impl Function {
    /// A kernel with default attributes.
    pub fn new(module: u32, index: usize, loaded: Arc<Loaded>, globals: Arc<Globals>) -> Self {
        let fixed = loaded.kernels[index].static_shared;
        let dynamic_shared_max = SHARED_DEFAULT.saturating_sub(fixed);
        Function { module, index, loaded, globals, dynamic_shared_max, carveout: -1 }
    }

    /// The kernel's properties from the PTX.
    pub fn kernel(&self) -> &KernelInfo {
        &self.loaded.kernels[self.index]
    }

    fn attribute(&self, attribute: i32) -> Answer<i32> {
        let kernel = self.kernel();
        let version = self.loaded.target.0 * 10 + self.loaded.target.1;
        Ok(match attribute {
            0 => kernel.max_threads as i32,
            1 => kernel.static_shared as i32,
            2 => 0,
            3 => kernel.local_bytes as i32,
            4 => kernel.registers as i32,
            5 | 6 => version as i32,
            7 => 0,
            MAX_DYNAMIC_SHARED => self.dynamic_shared_max as i32,
            CARVEOUT => self.carveout,
            10..=15 => 0,
            _ => return Err(Status::INVALID_VALUE.because(format!("{attribute} is not a function attribute"))),
        })
    }

    fn set_attribute(&mut self, attribute: i32, value: i32, processor: &Multiprocessor) -> Answer {
        match attribute {
            MAX_DYNAMIC_SHARED => {
                let most = processor.shared_of_block - self.kernel().static_shared.min(processor.shared_of_block);
                if value < 0 || value as u32 > most {
                    return Err(Status::INVALID_VALUE
                        .because(format!("{value} bytes of dynamic shared memory requested, the maximum is {most}")));
                }
                self.dynamic_shared_max = value as u32;
                Ok(())
            }
            CARVEOUT if (-1..=100).contains(&value) => {
                self.carveout = value;
                Ok(())
            }
            _ => Err(Status::INVALID_VALUE.because(format!("attribute {attribute} cannot be set to {value}"))),
        }
    }

    /// Blocks of this size that fit on one multiprocessor at the same time: limited by threads, blocks, registers
    /// (allocated in units of 256 per warp) and shared memory.
    pub fn blocks_of_multiprocessor(&self, processor: &Multiprocessor, threads: u32, dynamic_shared: u32) -> u32 {
        let kernel = self.kernel();
        if threads == 0 || threads > kernel.max_threads {
            return 0;
        }
        let warps = threads.div_ceil(32);
        let registers = (kernel.registers.max(1) * 32).next_multiple_of(256) * warps;
        let shared = kernel.static_shared + dynamic_shared;
        if shared > processor.shared_of_block {
            return 0;
        }
        let by_shared = processor.shared / (shared + processor.shared_reserved);
        let by_threads = processor.threads / (warps * 32);
        by_threads.min(processor.blocks).min(processor.registers / registers).min(by_shared)
    }
}

impl Context {
    /// The function of a handle.
    pub fn function(&mut self, handle: *mut c_void) -> Answer<&mut Function> {
        let serial = self.serial(handle, Kind::Function)?;
        let function = self.functions.get_mut(&serial);
        function.ok_or_else(|| Status::INVALID_HANDLE.because("the kernel's module was unloaded"))
    }
}

/// Calls `body` with the function of a handle and the limits of its device.
fn on_function<T>(handle: *mut c_void, body: impl FnOnce(&mut Function, &Multiprocessor) -> Answer<T>) -> Answer<T> {
    registry::with_owner(handle, Kind::Function, |context, _| {
        let processor = multiprocessor(context.engine.capability());
        body(context.function(handle)?, &processor)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(slot: Out<i32>, attribute: i32, function: *mut c_void) -> u32 {
    entry("cuFuncGetAttribute", || on_function(function, |function, _| slot.put(function.attribute(attribute)?)))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: *mut c_void, attribute: i32, value: i32) -> u32 {
    entry("cuFuncSetAttribute", || {
        on_function(function, |function, processor| function.set_attribute(attribute, value, processor))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: *mut c_void, _preference: u32) -> u32 {
    entry("cuFuncSetCacheConfig", || on_function(function, |_, _| Ok(())))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetName(slot: Out<*const c_char>, function: *mut c_void) -> u32 {
    entry("cuFuncGetName", || on_function(function, |function, _| slot.put(function.kernel().name.as_ptr())))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetModule(slot: Out<*mut c_void>, function: *mut c_void) -> u32 {
    entry("cuFuncGetModule", || {
        registry::with_owner(function, Kind::Function, |context, _| {
            let module = context.function(function)?.module;
            slot.put(context.handle(module, Kind::Module))
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncIsLoaded(state: Out<u32>, function: *mut c_void) -> u32 {
    entry("cuFuncIsLoaded", || on_function(function, |_, _| state.put(1)))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncLoad(function: *mut c_void) -> u32 {
    entry("cuFuncLoad", || on_function(function, |_, _| Ok(())))
}

/// Returns `INVALID_VALUE` past the last parameter. Callers use this to count parameters, so it is not reported.
#[unsafe(no_mangle)]
extern "C" fn cuFuncGetParamInfo(function: *mut c_void, index: usize, offset: Out<usize>, size: Out<usize>) -> u32 {
    entry("cuFuncGetParamInfo", || {
        on_function(function, |function, _| {
            let parameter = function.kernel().parameters.get(index).ok_or(Status::INVALID_VALUE)?;
            offset.put(parameter.offset)?;
            size.put_if_wanted(parameter.size)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    slot: Out<i32>,
    function: *mut c_void,
    threads: i32,
    dynamic_shared: usize,
) -> u32 {
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(slot, function, threads, dynamic_shared, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    slot: Out<i32>,
    function: *mut c_void,
    threads: i32,
    dynamic_shared: usize,
    _flags: u32,
) -> u32 {
    entry("cuOccupancyMaxActiveBlocksPerMultiprocessor", || {
        on_function(function, |function, processor| {
            let (Ok(threads), Ok(shared)) = (u32::try_from(threads), u32::try_from(dynamic_shared)) else {
                return Err(Status::INVALID_VALUE.into());
            };
            slot.put(function.blocks_of_multiprocessor(processor, threads, shared.min(1 << 20)) as i32)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    slot: Out<usize>,
    function: *mut c_void,
    blocks: i32,
    threads: i32,
) -> u32 {
    entry("cuOccupancyAvailableDynamicSMemPerBlock", || {
        on_function(function, |function, processor| {
            if blocks <= 0 || threads <= 0 {
                return Err(Status::INVALID_VALUE.because("blocks and threads must be positive"));
            }
            let share = processor.shared / blocks as u32;
            let taken = processor.shared_reserved + function.kernel().static_shared;
            slot.put(share.saturating_sub(taken).min(processor.shared_of_block) as usize)
        })
    })
}

type SharedOfBlock = extern "C" fn(i32) -> usize;

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<i32>,
    block: Out<i32>,
    function: *mut c_void,
    shared_of: Option<SharedOfBlock>,
    dynamic_shared: usize,
    limit: i32,
) -> u32 {
    cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, function, shared_of, dynamic_shared, limit, 0)
}

/// The block size with the most resident threads (the largest such size), and the grid that fills the device with it.
#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<i32>,
    block: Out<i32>,
    function: *mut c_void,
    shared_of: Option<SharedOfBlock>,
    dynamic_shared: usize,
    limit: i32,
    _flags: u32,
) -> u32 {
    entry("cuOccupancyMaxPotentialBlockSize", || {
        let (processors, found) = registry::with_owner(function, Kind::Function, |context, _| {
            let capability = context.engine.capability();
            Ok((super::attributes::device(16, capability, 0)?, (context.function(function)?.clone(), capability)))
        })?;
        let (function, processor) = (found.0, multiprocessor(found.1));
        let most = function.kernel().max_threads.min(if limit > 0 { limit as u32 } else { 1024 });
        let candidates = (1..=most.div_ceil(32)).map(|warps| (warps * 32).min(most));
        let best = candidates.max_by_key(|threads| {
            let shared = shared_of.map_or(dynamic_shared, |shared_of| shared_of(*threads as i32)).min(1 << 20);
            (threads * function.blocks_of_multiprocessor(&processor, *threads, shared as u32), *threads)
        });
        let threads = best.ok_or(Status::INVALID_VALUE)?;
        let shared = shared_of.map_or(dynamic_shared, |shared_of| shared_of(threads as i32)).min(1 << 20);
        let blocks = function.blocks_of_multiprocessor(&processor, threads, shared as u32) as i32;
        grid.put(blocks * processors)?;
        block.put(threads as i32)
    })
}
