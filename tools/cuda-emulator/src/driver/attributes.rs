//! Device attributes (`CUdevice_attribute`), with the values of an H100 SXM and an A100 SXM where code could depend on
//! them. An attribute that is not listed is a feature that the emulator lacks, and its value is 0.

use super::status::{Answer, Status};

const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;
const PCI_DEVICE_ID: i32 = 34;
/// The last attribute of CUDA 13.0.
const LAST: i32 = 147;

/// Attribute number, value for compute capability 9.0, value for 8.0.
#[rustfmt::skip]
const VALUES: &[(i32, i32, i32)] = &[
    (1, 1024, 1024), // max threads per block
    (2, 1024, 1024), // max block dim x
    (3, 1024, 1024), // max block dim y
    (4, 64, 64), // max block dim z
    (5, 2_147_483_647, 2_147_483_647), // max grid dim x
    (6, 65_535, 65_535), // max grid dim y
    (7, 65_535, 65_535), // max grid dim z
    (8, 49_152, 49_152), // max shared memory per block
    (9, 65_536, 65_536), // total constant memory
    (10, 32, 32), // warp size
    (11, 2_147_483_647, 2_147_483_647), // max pitch
    (12, 65_536, 65_536), // max registers per block
    (13, 1_980_000, 1_410_000), // clock rate
    (15, 1, 1), // gpu overlap
    (16, 132, 108), // multiprocessor count
    (31, 1, 1), // concurrent kernels
    (32, 1, 1), // ecc enabled
    (36, 2_619_000, 1_593_000), // memory clock rate
    (37, 5120, 5120), // global memory bus width
    (38, 52_428_800, 41_943_040), // l2 cache size
    (39, 2048, 2048), // max threads per multiprocessor
    (40, 3, 3), // async engine count
    (41, 1, 1), // unified addressing
    (78, 1, 1), // stream priorities supported
    (79, 1, 1), // global l1 cache supported
    (80, 1, 1), // local l1 cache supported
    (81, 233_472, 167_936), // max shared memory per multiprocessor
    (82, 65_536, 65_536), // max registers per multiprocessor
    (87, 2, 2), // single to double precision perf ratio
    (90, 1, 1), // compute preemption supported
    (91, 1, 1), // can use host pointer for registered mem
    (95, 1, 1), // cooperative launch
    (97, 232_448, 166_912), // max shared memory per block optin
    (99, 1, 1), // host register supported
    (106, 32, 32), // max blocks per multiprocessor
    (111, 1024, 1024), // reserved shared memory per block
    (115, 1, 1), // memory pools supported
    (119, 1, 1), // mempool supported handle types
    (120, 1, 0), // cluster launch
    (126, 4, 1), // mem sync domain count
    (127, 1, 0), // tensor map access supported
];

/// The value of an attribute on a device of this compute capability.
///
/// # Errors
/// `INVALID_VALUE` for a number that is not an attribute.
pub fn device(attribute: i32, capability: (u32, u32), device: i32) -> Answer<i32> {
    match attribute {
        CAPABILITY_MAJOR => Ok(capability.0 as i32),
        CAPABILITY_MINOR => Ok(capability.1 as i32),
        PCI_DEVICE_ID => Ok(device),
        1..=LAST => {
            let row = VALUES.iter().find(|(number, _, _)| *number == attribute);
            Ok(row.map_or(0, |(_, hopper, ampere)| if capability.0 >= 9 { *hopper } else { *ampere }))
        }
        _ => Err(Status::INVALID_VALUE.because(format!("{attribute} is not a device attribute"))),
    }
}

/// Limits of one multiprocessor, for occupancy.
pub struct Multiprocessor {
    pub threads: u32,
    pub blocks: u32,
    pub registers: u32,
    /// Shared memory for all blocks together, in bytes.
    pub shared: u32,
    /// Maximum shared memory per block, after opting in, in bytes.
    pub shared_of_block: u32,
    /// Shared memory that the system reserves per block, in bytes.
    pub shared_reserved: u32,
}

/// The multiprocessor of a device of this compute capability (CUDA C++ Programming Guide, table of technical
/// specifications).
pub fn multiprocessor(capability: (u32, u32)) -> Multiprocessor {
    let (shared, shared_of_block) = if capability.0 >= 9 { (228 << 10, 227 << 10) } else { (164 << 10, 163 << 10) };
    Multiprocessor { threads: 2048, blocks: 32, registers: 65_536, shared, shared_of_block, shared_reserved: 1024 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_differ_where_the_devices_do() {
        assert_eq!(device(10, (9, 0), 0).unwrap(), 32);
        assert_eq!(device(16, (9, 0), 0).unwrap(), 132);
        assert_eq!(device(16, (8, 0), 1).unwrap(), 108);
        assert_eq!(device(97, (9, 0), 0).unwrap(), multiprocessor((9, 0)).shared_of_block as i32);
        assert_eq!(device(97, (8, 0), 1).unwrap(), multiprocessor((8, 0)).shared_of_block as i32);
        assert_eq!(device(75, (8, 0), 1).unwrap(), 8);
        assert!(device(0, (8, 0), 0).is_err() && device(10_000, (8, 0), 0).is_err());
    }
}
