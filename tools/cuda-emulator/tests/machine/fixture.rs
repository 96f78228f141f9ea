//! Runs a piece of PTX in all threads of a few warps.

use bytemuck::Pod;
use cuda_emulator::fault::Fault;
use cuda_emulator::ir::Program;
use cuda_emulator::machine::{Device, LaunchConfig, SymbolAddresses};
use cuda_emulator::options::Options;

/// A kernel around `body`. `%t` is the thread index, `%in` the address of the thread's 16 bytes of input and `%out` of
/// output (`%in0` and `%out0`: of thread 0); there are registers of every kind.
pub fn program(target: &str, outside: &str, body: &str) -> String {
    format!(
        ".version 8.0
.target {target}
.address_size 64
{outside}
.visible .entry kernel(.param .u64 out, .param .u64 in)
{{
    .reg .pred %p<16>;
    .reg .b16 %h<16>;
    .reg .b32 %r<32>;
    .reg .b64 %d<32>;
    .reg .f32 %f<16>;
    .reg .u32 %t;
    .reg .u64 %in, %out, %in0, %out0, %o;
    mov.u32 %t, %tid.x;
    ld.param.u64 %out0, [out];
    ld.param.u64 %in0, [in];
    cvta.to.global.u64 %out0, %out0;
    cvta.to.global.u64 %in0, %in0;
    mul.wide.u32 %o, %t, 16;
    add.u64 %in, %in0, %o;
    add.u64 %out, %out0, %o;
{body}
    ret;
}}
"
    )
}

/// The configuration of a run.
#[derive(Clone)]
pub struct Run<'a> {
    pub target: &'a str,
    /// Declarations outside the kernel.
    pub outside: &'a str,
    pub body: &'a str,
    pub threads: u32,
    pub blocks: u32,
    pub seed: Option<u64>,
}

impl<'a> Run<'a> {
    pub fn new(body: &'a str) -> Self {
        Run { target: "sm_80", outside: "", body, threads: 32, blocks: 1, seed: None }
    }

    /// Runs with 16 bytes of input per thread (zeros after the end of `input`); returns the 16 bytes that every thread
    /// of a block writes.
    pub fn with<T: Pod>(&self, input: &[T]) -> Result<Vec<[u8; 16]>, Fault> {
        let text = program(self.target, self.outside, self.body);
        let loaded = Program::load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let capability = if self.target.starts_with("sm_9") { (9, 0) } else { (8, 0) };
        let mut device = Device::new(Options { capability, order_seed: self.seed, ..Options::default() });
        let bytes = 16 * u64::from(self.threads);
        let (out, given) = (device.memory.allocate(bytes).unwrap(), device.memory.allocate(bytes).unwrap());
        device.memory.fill(out, 0, bytes)?;
        device.memory.fill(given, 0, bytes)?;
        device.memory.write(given, bytemuck::cast_slice(input))?;
        let mut symbols = SymbolAddresses::default();
        for symbol in &loaded.symbols {
            let address = device.memory.allocate(symbol.size).unwrap();
            device.memory.write(address, symbol.bytes.as_deref().unwrap_or(&vec![0; symbol.size as usize]))?;
            symbols.0.push(address);
        }
        let config = LaunchConfig { grid: [self.blocks, 1, 1], block: [self.threads, 1, 1], dynamic_shared: 0 };
        let kernel = loaded.kernel("kernel").unwrap();
        let parameters = [out.to_le_bytes(), given.to_le_bytes()].concat();
        device.launch(&loaded, kernel, &symbols, &config, &parameters)?;
        let mut results = vec![[0; 16]; self.threads as usize];
        device.memory.read(out, results.as_flattened_mut())?;
        Ok(results)
    }

    /// The first word that every thread writes.
    pub fn words(&self, input: &[[u32; 4]]) -> Vec<u32> {
        let results = self.with(input).unwrap_or_else(|fault| panic!("{fault}\n{}", self.body));
        results.iter().map(|bytes| u32::from_le_bytes(*bytes.first_chunk().unwrap())).collect()
    }

    /// Runs and returns the fault, which must occur.
    pub fn fault(&self) -> Fault {
        match self.with::<u32>(&[]) {
            Ok(_) => panic!("no fault:\n{}", self.body),
            Err(fault) => fault,
        }
    }
}

/// An input of one word per thread.
pub fn inputs(values: impl IntoIterator<Item = u32>) -> Vec<[u32; 4]> {
    values.into_iter().map(|x| [x, 0, 0, 0]).collect()
}

/// One value for each lane.
pub fn lanes(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}
