//! A launch: checks the hardware limits, then runs block after block.

use super::block::Block;
use super::{Device, LaunchConfig, SymbolAddresses};
use crate::counters::KernelCounters;
use crate::fault::{Fault, FaultKind};
use crate::ir::{Constant, Kernel, Program};
use crate::memory::race::BlockAccess;

pub struct Launch<'a> {
    pub program: &'a Program,
    pub kernel: &'a Kernel,
    pub symbols: &'a SymbolAddresses,
    pub config: &'a LaunchConfig,
    pub parameters: &'a [u8],
}

pub fn run(device: &mut Device, launch: &Launch<'_>, number: u32) -> Result<(), Fault> {
    check(device, launch)?;
    let [gx, gy, gz] = launch.config.grid.map(u64::from);
    let blocks = gx * gy * gz;
    let mut counts = KernelCounters { launches: 1, ..Default::default() };
    let mut block = Block::new(launch, &device.options);
    let order = Order::new(blocks, device.options.order_seed.map(|seed| seed ^ u64::from(number)));
    let mut result = Ok(());
    for nth in 0..blocks {
        let index = order.at(nth);
        let who = BlockAccess {
            tracked: device.options.checks && blocks > 1,
            atomic: false,
            launch: number,
            block: index as u32,
        };
        block.begin([(index % gx) as u32, (index / gx % gy) as u32, (index / gx / gy) as u32], launch, who);
        result = block.run(launch, device, &mut counts);
        if result.is_err() {
            break;
        }
    }
    device.counters.add(&launch.kernel.name, &counts);
    result
}

fn check(device: &Device, launch: &Launch<'_>) -> Result<(), Fault> {
    let Launch { kernel, config, program, symbols, parameters } = launch;
    let refuse = |message: String| {
        let mut fault = Fault::host(FaultKind::Launch, None, message);
        fault.kernel = kernel.name.clone();
        Err(fault)
    };
    let threads = config.block.iter().map(|n| u64::from(*n)).product::<u64>();
    let limits = [("grid", config.grid, [(1 << 31) - 1, 65_535, 65_535]), ("block", config.block, [1024, 1024, 64])];
    for (what, sizes, most) in limits {
        for (axis, (size, most)) in ["x", "y", "z"].iter().zip(sizes.iter().zip(most)) {
            if *size == 0 || *size > most {
                return refuse(format!("{what}.{axis} = {size}: the limits are 1 and {most}"));
            }
        }
    }
    if threads > u64::from(kernel.max_threads.min(1024)) {
        return refuse(format!(
            "{threads} threads per block: the kernel was compiled for at most {}",
            kernel.max_threads
        ));
    }
    if let Some(required) = kernel.required_block.filter(|required| *required != config.block) {
        return refuse(format!("a block of {:?}: the kernel was compiled only for {required:?}", config.block));
    }
    if u64::from(kernel.registers) * threads.next_multiple_of(32) > 65_536 {
        return refuse(format!(
            "{} registers per thread × {threads} threads: a multiprocessor has 65,536",
            kernel.registers
        ));
    }
    let shared = u64::from(kernel.dynamic_shared_offset) + u64::from(config.dynamic_shared);
    if shared.max(u64::from(kernel.static_shared)) > u64::from(device.options.shared_limit()) {
        return refuse(format!("{shared} bytes of shared memory: a block has {}", device.options.shared_limit()));
    }
    if parameters.len() != kernel.parameter_bytes as usize {
        return refuse(format!("{} bytes of arguments: the kernel takes {}", parameters.len(), kernel.parameter_bytes));
    }
    let used =
        kernel.constants.iter().filter_map(|(_, c)| if let Constant::Symbol(i, _) = c { Some(*i) } else { None });
    if let Some(i) = used.filter(|i| *i as usize >= symbols.0.len()).min() {
        return refuse(format!("the variable {} of the module has no address", program.symbols[i as usize].name));
    }
    Ok(())
}

/// The order of 0..n: natural, or random from a seed. It needs no list of all blocks: it is a walk whose step has no
/// common divisor with n.
struct Order {
    n: u64,
    first: u64,
    step: u64,
}

impl Order {
    fn new(n: u64, seed: Option<u64>) -> Self {
        let Some(seed) = seed else { return Order { n, first: 0, step: 1 } };
        let mixed = mix(seed);
        let mut step = (mix(mixed) % n) | 1;
        while gcd(step, n) != 1 {
            step += 2;
        }
        Order { n, first: mixed % n, step: step % n.max(2) }
    }

    fn at(&self, nth: u64) -> u64 {
        ((u128::from(nth) * u128::from(self.step) + u128::from(self.first)) % u128::from(self.n)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// SplitMix64's finaliser.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_visits_every_block_once() {
        for n in [1, 2, 3, 6, 64, 97, 1000] {
            for seed in [None, Some(0), Some(1), Some(99)] {
                let order = Order::new(n, seed);
                let mut seen: Vec<u64> = (0..n).map(|nth| order.at(nth)).collect();
                if seed.is_none() {
                    assert!(seen.is_sorted());
                }
                seen.sort_unstable();
                assert_eq!(seen, (0..n).collect::<Vec<_>>(), "{n} {seed:?}");
            }
        }
    }
}
