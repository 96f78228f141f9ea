//! A device with one program, for tests that launch kernels without the driver.

use bytemuck::{Pod, Zeroable};
use cuda_emulator::fault::Fault;
use cuda_emulator::ir::Program;
use cuda_emulator::machine::{Device, LaunchConfig, SymbolAddresses};
use cuda_emulator::options::Options;

use crate::compile::{self, Target};

pub struct Fixture {
    pub device: Device,
    program: Program,
    symbols: SymbolAddresses,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument<'a> {
    Address(u64),
    Int(i32),
    Float(f32),
    /// A struct passed by value.
    Bytes(&'a [u8]),
}

impl Fixture {
    pub fn new(name: &str, mistake: Option<&str>, target: Target) -> Self {
        Self::with_options(name, mistake, target, Options::default())
    }

    pub fn with_options(name: &str, mistake: Option<&str>, target: Target, options: Options) -> Self {
        let program = Program::load(&compile::ptx(name, mistake, target)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let options = Options { capability: target.capability, ..options };
        Self { device: Device::new(options), program, symbols: SymbolAddresses::default() }
    }

    pub fn upload<T: Pod>(&mut self, values: &[T]) -> u64 {
        let address = self.empty::<T>(values.len());
        self.device.memory.write(address, bytemuck::cast_slice(values)).expect("inside its allocation");
        address
    }

    /// Uninitialised memory.
    pub fn empty<T>(&mut self, len: usize) -> u64 {
        self.device.memory.allocate((len * size_of::<T>()) as u64).expect("there is room")
    }

    pub fn download<T: Pod + Zeroable>(&self, address: u64, len: usize) -> Result<Vec<T>, Fault> {
        let mut values = vec![T::zeroed(); len];
        self.device.memory.read(address, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    pub fn launch(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        dynamic_shared: u32,
        arguments: &[Argument<'_>],
    ) -> Result<(), Fault> {
        let kernel = self.program.kernel(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        assert_eq!(kernel.parameters.len(), arguments.len(), "arguments of {}", kernel.name);
        let mut bytes = vec![0; kernel.parameter_bytes as usize];
        for (parameter, argument) in kernel.parameters.iter().zip(arguments) {
            let mut put = |from: &[u8]| {
                assert_eq!(from.len(), parameter.size as usize, "an argument of {}", kernel.name);
                bytes[parameter.offset as usize..][..from.len()].copy_from_slice(from);
            };
            match argument {
                Argument::Address(address) => put(&address.to_le_bytes()),
                Argument::Int(value) => put(&value.to_le_bytes()),
                Argument::Float(value) => put(&value.to_le_bytes()),
                Argument::Bytes(value) => put(value),
            }
        }
        let config = LaunchConfig { grid, block: [threads, 1, 1], dynamic_shared };
        self.device.launch(&self.program, kernel, &self.symbols, &config, &bytes)
    }
}

/// Pseudo-random numbers between −1 and 1, the same in every run.
pub fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    for _ in 0..8 {
        next();
    }
    (0..len).map(|_| next()).collect()
}
