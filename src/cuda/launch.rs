//! The only code that launches a kernel.

use std::sync::atomic::Ordering;

use cudarc::driver::{CudaStream, LaunchConfig, PushKernelArg, sys};

use super::command::StreamCommand;
use super::kernels::Kernel;
use super::{Cuda, CudaError};

/// An argument of a kernel. Views become pointers by [`super::View::argument`] and [`super::ViewMut::argument`].
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
    /// For an optional buffer that is absent.
    pub const NULL: Self = Self::Pointer(0);

    /// Bytes of the kernel's parameter.
    const fn bytes(self) -> usize {
        match self {
            Self::Pointer(_) | Self::Size(_) | Self::F64(_) => 8,
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
        }
    }

    /// A size or count as an `int` parameter.
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

/// A launch with all of its arguments.
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
    /// Sends a kernel to the stream and returns at once.
    ///
    /// # Safety
    ///
    /// The arguments must match the kernel's signature, in its order. Everything that the kernel reads or writes must lie inside
    /// views that the caller holds, for writing where it writes: a kernel checks nothing. The compiler checks the number of
    /// arguments, and this function checks the size of each. Later commands on the same memory run after this kernel, because
    /// there is only one stream.
    ///
    /// # Panics
    ///
    /// When an argument does not have the size that the kernel expects.
    pub unsafe fn launch<const N: usize>(
        &self,
        kernel: &Kernel<N>,
        grid: Grid,
        arguments: [Argument; N],
    ) -> Result<(), CudaError> {
        for (index, (argument, size)) in arguments.iter().zip(kernel.sizes).enumerate() {
            let bytes = argument.bytes();
            assert_eq!(bytes, size, "{}: argument {index} has {bytes} bytes, the kernel takes {size}", kernel.name);
        }
        self.submit(StreamCommand::Launch(Launch {
            index: kernel.index,
            name: kernel.name,
            grid,
            arguments: arguments.into(),
        }))
    }

    /// Sends a launch to a stream. It comes from [`Self::launch`], whose caller promised that it is sound.
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
            |error| CudaError::Driver { what, error }
        };
        // The attribute is set once per size: setting it takes the driver as long as a launch.
        let allowed = self.shared_allowed(*index);
        if dynamic_shared_bytes > allowed.load(Ordering::Relaxed) {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let set = function.set_attribute(attribute, dynamic_shared_bytes as i32);
            set.map_err(|error| failed(&format!("allowing {dynamic_shared_bytes} bytes of shared memory for"))(error))?;
            allowed.fetch_max(dynamic_shared_bytes, Ordering::Relaxed);
        }
        let config = LaunchConfig {
            grid_dim: (u32::try_from(blocks).expect("launchers bound their blocks"), 1, 1),
            block_dim: (x, y, 1),
            shared_mem_bytes: u32::try_from(dynamic_shared_bytes).expect("launchers bound their shared memory"),
        };
        // Safety: the caller of `launch` promised it.
        unsafe { builder.launch(config) }.map_err(|error| failed("launching")(error))?;
        self.count_launch(*index);
        Ok(())
    }
}
