//! The one place where a kernel is launched.

use std::sync::atomic::Ordering;

use cudarc::driver::{CudaStream, LaunchConfig, PushKernelArg, sys};

use super::kernels::Kernel;
use super::work::Work;
use super::{Cuda, CudaError};

/// An argument of a kernel. Views turn into pointers by [`super::View::argument`] and its like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// Address in device memory; 0 is null.
    Pointer(u64),
    I32(i32),
    U32(u32),
    F32(f32),
    F64(f64),
    /// An offset or count that may exceed 2³² (`size_t`).
    Size(usize),
}

impl Argument {
    pub const NULL: Self = Self::Pointer(0);

    /// Bytes that the kernel reads.
    const fn bytes(self) -> usize {
        match self {
            Self::Pointer(_) | Self::Size(_) | Self::F64(_) => 8,
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
        }
    }

    /// A size or count as the `int` that kernels take.
    ///
    /// # Panics
    ///
    /// Beyond 2³¹ − 1: launchers check sizes first.
    pub fn count(value: usize) -> Self {
        Self::I32(i32::try_from(value).expect("sizes are checked before a launch"))
    }
}

/// Blocks, threads of a block (x, y), and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub blocks: usize,
    pub threads: (u32, u32),
    pub dynamic_shared_bytes: usize,
}

/// A launch with all it takes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Launch {
    /// [`Kernel::index`]
    index: usize,
    name: &'static str,
    grid: Grid,
    arguments: Box<[Argument]>,
}

impl Launch {
    /// The kernel's name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl Cuda {
    /// Puts a kernel on the stream and returns at once.
    ///
    /// # Safety
    ///
    /// The arguments must be what the kernel's signature says, in its order, and everything the kernel then reads and writes
    /// must lie inside views that the caller holds, the written ones for writing: a kernel checks nothing. Their number is
    /// checked by the compiler and the size of each here. Later work on the same memory comes behind this kernel, because
    /// there is one stream.
    ///
    /// # Panics
    ///
    /// When an argument has another size than the kernel's.
    pub unsafe fn launch<const N: usize>(
        &self,
        kernel: &Kernel<N>,
        grid: Grid,
        arguments: [Argument; N],
    ) -> Result<(), CudaError> {
        for (place, (argument, size)) in arguments.iter().zip(kernel.sizes).enumerate() {
            let bytes = argument.bytes();
            assert_eq!(bytes, size, "{}: argument {place} has {bytes} bytes, the kernel takes {size}", kernel.name);
        }
        self.submit(Work::Launch(Launch { index: kernel.index, name: kernel.name, grid, arguments: arguments.into() }))
    }

    /// Puts a launch on a stream. It was made by [`Self::launch`], whose caller promised what makes it sound.
    pub(super) fn send_launch(&self, launch: &Launch, stream: &CudaStream) -> Result<(), CudaError> {
        let Launch { index, name, grid, arguments } = launch;
        let function = self.function(*index);
        let mut builder = stream.launch_builder(function);
        for argument in arguments {
            match argument {
                Argument::Pointer(value) => builder.arg(value),
                Argument::I32(value) => builder.arg(value),
                Argument::U32(value) => builder.arg(value),
                Argument::F32(value) => builder.arg(value),
                Argument::F64(value) => builder.arg(value),
                Argument::Size(value) => builder.arg(value),
            };
        }
        let Grid { blocks, threads: (x, y), dynamic_shared_bytes } = *grid;
        let failed = |doing: &str| {
            let what = format!("{doing} {name}");
            |source| CudaError::Driver { what, source }
        };
        // Asked for once: the driver takes as long for it as for a launch.
        let allowed = self.shared_allowed(*index);
        if dynamic_shared_bytes > allowed.load(Ordering::Relaxed) {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let asked = function.set_attribute(attribute, dynamic_shared_bytes as i32);
            asked.map_err(|error| {
                failed(&format!("asking for {dynamic_shared_bytes} bytes of shared memory for"))(error)
            })?;
            allowed.fetch_max(dynamic_shared_bytes, Ordering::Relaxed);
        }
        let config = LaunchConfig {
            grid_dim: (u32::try_from(blocks).expect("launchers bound their blocks"), 1, 1),
            block_dim: (x, y, 1),
            shared_mem_bytes: u32::try_from(dynamic_shared_bytes).expect("launchers bound their shared memory"),
        };
        // Safety: the promise of the caller of `launch`.
        unsafe { builder.launch(config) }.map_err(|error| failed("launching")(error))?;
        self.count_launch(*index);
        Ok(())
    }
}
