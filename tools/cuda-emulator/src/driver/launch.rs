//! Launches: checks the hardware limits, and the arguments as far as the C interface allows.
//!
//! A launch passes only pointers to values, without types or a count. The PTX signature allows these checks:
//! - each value must be readable memory of the parameter's size (a missing argument usually is not);
//! - a parameter that the kernel uses as an address must be null or inside the address range of this context, so that a
//!   number or a foreign pointer is caught even if the kernel never follows it;
//! - a 4-byte parameter must not point to storage that holds a pointer to the start of a live allocation.
//!
//! Everything else shows up when the kernel follows the pointer.

use std::ffi::c_void;

use super::attributes::multiprocessor;
use super::command::Command;
use super::context::Context;
use super::engine::{Dimensions, ParameterInfo};
use super::entry::{In, entry};
use super::function::Function;
use super::status::{Answer, Status};
use super::stream::on_stream;

/// Keys of the `extra` list of a launch.
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// The arguments of a launch in C form: a list of pointers to values, or one packed buffer.
#[derive(Clone, Copy)]
struct Arguments {
    pointers: *const *const c_void,
    extra: *const usize,
}

impl Context {
    fn launch(&mut self, function: *mut c_void, stream: u32, shape: Dimensions, arguments: Arguments) -> Answer {
        let function = self.function(function)?.clone();
        self.check_limits(&function, &shape)?;
        let parameters = self.gather(&function, arguments)?;
        let command = Command::device(move |engine| {
            engine.launch(&function.loaded, function.index, &function.globals, &shape, &parameters)
        });
        self.submit(stream, command).map(|_| ())
    }

    /// Refuses a launch that a device of this kind could not start.
    fn check_limits(&self, function: &Function, shape: &Dimensions) -> Answer {
        let kernel = function.kernel();
        let name = kernel.name.to_string_lossy();
        let invalid = |what: String| Err(Status::INVALID_VALUE.because(format!("{name}: {what}")));
        let Dimensions { grid, block, dynamic_shared } = *shape;
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535 {
            return invalid(format!(
                "a grid of {grid:?} blocks; the limits are 2147483647, 65535, 65535, and at least 1"
            ));
        }
        let threads = block.iter().map(|threads| *threads as u64).product::<u64>();
        if threads == 0 || threads > kernel.max_threads as u64 || block[2] > 64 {
            return invalid(format!(
                "a block of {block:?} threads; the limits are {} in all and 64 in z",
                kernel.max_threads
            ));
        }
        if dynamic_shared > function.dynamic_shared_max {
            return invalid(format!(
                "{dynamic_shared} bytes of dynamic shared memory; {} are allowed (more after cuFuncSetAttribute)",
                function.dynamic_shared_max
            ));
        }
        let processor = multiprocessor(self.engine.capability());
        let registers = (kernel.registers.max(1) as u64 * 32).next_multiple_of(256) * threads.div_ceil(32);
        if registers > processor.registers as u64 {
            let text = format!("{name}: {} registers for each of {threads} threads", kernel.registers);
            return Err(Status::LAUNCH_OUT_OF_RESOURCES.because(text));
        }
        Ok(())
    }

    /// Copies the arguments into the kernel's parameter block and checks each one against the signature.
    fn gather(&self, function: &Function, arguments: Arguments) -> Answer<Vec<u8>> {
        let kernel = function.kernel();
        let name = kernel.name.to_string_lossy();
        let mut block = vec![0; kernel.parameter_bytes];
        if !arguments.extra.is_null() {
            let buffer = packed(arguments.extra)?;
            if buffer.len() != block.len() {
                let text = format!("{name}: {} bytes of arguments, the kernel takes {}", buffer.len(), block.len());
                return Err(Status::INVALID_VALUE.because(text));
            }
            return Ok(buffer);
        }
        for (index, parameter) in kernel.parameters.iter().enumerate() {
            let argument = || format!("{name}: argument {index} of {}", kernel.parameters.len());
            let mut pointer = [0; 8];
            let entry = (arguments.pointers as usize).wrapping_add(8 * index);
            if arguments.pointers.is_null() || !read_memory(entry, &mut pointer) {
                return Err(Status::INVALID_VALUE.because(format!("{} is missing", argument())));
            }
            let storage = usize::from_ne_bytes(pointer);
            let value = &mut block[parameter.offset..parameter.offset + parameter.size];
            if storage == 0 || !read_memory(storage, value) {
                let text = format!(
                    "{} ({} bytes) cannot be read at {storage:#x}: too few arguments, or not a pointer to a value",
                    argument(),
                    parameter.size
                );
                return Err(Status::INVALID_VALUE.because(text));
            }
            self.check_value(parameter, value, storage)
                .map_err(|text| Status::INVALID_VALUE.because(format!("{} {text}", argument())))?;
        }
        Ok(block)
    }

    /// What is wrong with a value for this parameter, as far as can be checked.
    fn check_value(&self, parameter: &ParameterInfo, value: &[u8], storage: usize) -> Result<(), String> {
        for &offset in &parameter.pointers {
            let Some(bytes) = value.get(offset..offset + 8) else { continue };
            let address = bytes.iter().rev().fold(0, |address, byte| address << 8 | *byte as u64);
            if address != 0 && !self.engine.is_device_address(address) {
                return Err(format!(
                    "is a pointer in the kernel, but {address:#x} is not an address of this context's memory: wrong order \
                     or size of arguments?"
                ));
            }
        }
        let mut wide = [0; 8];
        if parameter.size == 4 && storage.is_multiple_of(8) && read_memory(storage, &mut wide) {
            let address = u64::from_ne_bytes(wide);
            if self.engine.allocation(address).is_some_and(|(start, _)| start == address) {
                return Err(format!(
                    "has 4 bytes in the kernel, but holds the device pointer {address:#x}: wrong order or size of \
                     arguments?"
                ));
            }
        }
        Ok(())
    }
}

/// The packed buffer of an `extra` list.
fn packed(extra: *const usize) -> Answer<Vec<u8>> {
    let (mut pointer, mut size) = (0, None);
    for index in (0..).step_by(2) {
        let mut pair = [0; 16];
        if !read_memory((extra as usize).wrapping_add(8 * index), &mut pair) {
            return Err(Status::INVALID_VALUE.because("the list of extra arguments cannot be read"));
        }
        let key = usize::from_ne_bytes(std::array::from_fn(|byte| pair[byte]));
        let value = usize::from_ne_bytes(std::array::from_fn(|byte| pair[8 + byte]));
        match key {
            0 => break,
            BUFFER_POINTER => pointer = value,
            BUFFER_SIZE => {
                let mut bytes = [0; 8];
                size = read_memory(value, &mut bytes).then(|| usize::from_ne_bytes(bytes));
            }
            _ => return Err(Status::INVALID_VALUE.because(format!("unknown extra argument {key}"))),
        }
    }
    let mut buffer = vec![0; size.filter(|size| *size <= 32_764).ok_or(Status::INVALID_VALUE)?];
    match read_memory(pointer, &mut buffer) {
        true => Ok(buffer),
        false => Err(Status::INVALID_VALUE.because(format!("the argument buffer at {pointer:#x} cannot be read"))),
    }
}

/// Reads this process's memory without trusting the address: `false` if nothing readable is mapped there.
fn read_memory(address: usize, bytes: &mut [u8]) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
    // Safety: the kernel writes at most `bytes.len()` bytes to `bytes` and returns an error for a bad source.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    read == bytes.len() as isize
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: *mut c_void,
    pointers: *const *const c_void,
    extra: *const usize,
) -> u32 {
    entry("cuLaunchKernel", || {
        let shape = Dimensions { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        on_stream(stream, |context, serial| context.launch(function, serial, shape, Arguments { pointers, extra }))
    })
}

/// All blocks must fit on the device at the same time.
#[unsafe(no_mangle)]
extern "C" fn cuLaunchCooperativeKernel(
    function: *mut c_void,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: *mut c_void,
    pointers: *const *const c_void,
) -> u32 {
    entry("cuLaunchCooperativeKernel", || {
        let shape = Dimensions { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        on_stream(stream, |context, serial| {
            let capability = context.engine.capability();
            let processors = super::attributes::device(16, capability, 0)? as u64;
            let found = context.function(function)?.clone();
            context.check_limits(&found, &shape)?;
            let (blocks, threads) = (grid_x as u64 * grid_y as u64 * grid_z as u64, block_x * block_y * block_z);
            let fit = found.blocks_of_multiprocessor(&multiprocessor(capability), threads, dynamic_shared) as u64;
            if blocks > fit * processors {
                let text = format!("{blocks} blocks, {} fit at the same time", fit * processors);
                return Err(Status::COOPERATIVE_LAUNCH_TOO_LARGE.because(text));
            }
            context.launch(function, serial, shape, Arguments { pointers, extra: std::ptr::null() })
        })
    })
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: *mut c_void,
    attributes: *mut c_void,
    attribute_count: u32,
}

/// Launch attributes (clusters, priorities, programmatic launches) are refused.
#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernelEx(
    config: In<LaunchConfig>,
    function: *mut c_void,
    pointers: *const *const c_void,
    extra: *const usize,
) -> u32 {
    entry("cuLaunchKernelEx", || {
        let LaunchConfig { grid, block, dynamic_shared, stream, attribute_count, .. } = config.get()?;
        if attribute_count != 0 {
            return Err(Status::NOT_SUPPORTED.because("launch attributes (such as clusters) are not supported"));
        }
        let shape = Dimensions { grid, block, dynamic_shared };
        on_stream(stream, |context, serial| context.launch(function, serial, shape, Arguments { pointers, extra }))
    })
}
