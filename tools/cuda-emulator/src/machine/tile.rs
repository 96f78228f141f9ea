//! Copies of tiles: asynchronous copies, ldmatrix and stmatrix.

use super::access::{adjacent, sectors, sectors_of_range};
use super::step::{Core, lanes};
use crate::fault::{FaultKind, LaneFault};
use crate::ir::{Address, Reg};
use crate::memory::shared::bank_conflicts;

impl Core<'_> {
    /// `cp.async`: the bytes are copied now; the shadow of shared memory tracks when they become visible.
    pub fn copy_async(
        &mut self,
        to: Address,
        from: Address,
        size: u8,
        source_size: Reg,
        mask: u32,
    ) -> Result<(), LaneFault> {
        let (to, from, len) = (self.addresses(to), self.addresses(from), u64::from(size));
        let sizes = if source_size == Reg::NONE { [u32::from(size); 32] } else { *self.warp.row(source_size) };
        self.counts.load_instructions += 1;
        self.counts.load_bytes += lanes(mask).map(|l| u64::from(sizes[l as usize])).sum::<u64>();
        let copied = lanes(mask).filter(|l| sizes[*l as usize] > 0).fold(0, |m, l| m | 1 << l);
        self.counts.load_sectors += match copied {
            u32::MAX if adjacent(&from, len as usize) => sectors_of_range(from[0], 32 * len as usize),
            _ => sectors(&from, copied),
        };
        for lane in lanes(mask) {
            let (to, from, source) = (to[lane as usize], from[lane as usize], u64::from(sizes[lane as usize]));
            if source > len {
                let message = format!("cp.async of {source} source bytes to {len} bytes");
                return Err(LaneFault::new(FaultKind::IllegalAddress, message).at(lane, from));
            }
            // The source address of a lane that copies nothing is not checked.
            if to % len != 0 || (source > 0 && from % len != 0) {
                let message = format!("cp.async of {len} bytes between addresses that are not multiples of {len}");
                return Err(LaneFault::new(FaultKind::Misaligned, message).at(lane, from));
            }
            let mut bytes = [0; 16];
            if source > 0 {
                let found = self.memory.load(from, source, self.who).map_err(|t| t.at(lane, from))?;
                bytes[..source as usize].copy_from_slice(found);
            }
            let who = self.accessor(lane);
            let target = self.shared.copy_target(who, to, len as usize).map_err(|t| t.at(lane, to))?;
            target.copy_from_slice(&bytes[..len as usize]);
        }
        Ok(())
    }

    /// `ldmatrix`: lane 8 i + r has the address of row r of matrix i, 8 elements of 16 bits. Lane l gets elements 2 (l
    /// % 4) and the next one of row l / 4 of each matrix; transposed, of column l / 4 (PTX ISA, "Warp-level matrix load
    /// instruction").
    pub fn load_matrix(&mut self, d: &[Reg], transposed: bool, address: Address, mask: u32) -> Result<(), LaneFault> {
        self.whole_warp("ldmatrix", mask)?;
        let at = self.matrix_rows(d.len(), address)?;
        let mut matrices = [[[0u16; 8]; 8]; 4];
        for (row, address) in at.iter().enumerate().take(8 * d.len()) {
            let who = self.accessor(row as u32);
            let bytes = self.shared.load(who, *address, 16).map_err(|t| t.at(row as u32, *address))?;
            let elements = bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
            matrices[row / 8][row % 8].iter_mut().zip(elements).for_each(|(to, x)| *to = x);
        }
        for (reg, m) in d.iter().zip(&matrices).filter(|(reg, _)| **reg != Reg::NONE) {
            *self.warp.row(*reg) = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                let [low, high] = if transposed {
                    [m[column][row], m[column + 1][row]]
                } else {
                    [m[row][column], m[row][column + 1]]
                };
                u32::from(low) | u32::from(high) << 16
            });
        }
        self.warp.sync += 1;
        Ok(())
    }

    /// `stmatrix`: the inverse of `ldmatrix`.
    pub fn store_matrix(&mut self, a: &[Reg], transposed: bool, address: Address, mask: u32) -> Result<(), LaneFault> {
        self.whole_warp("stmatrix", mask)?;
        let at = self.matrix_rows(a.len(), address)?;
        let mut matrices = [[[0u16; 8]; 8]; 4];
        for (reg, m) in a.iter().zip(&mut matrices) {
            for (lane, value) in self.warp.row(*reg).iter().enumerate() {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                let [low, high] = [*value as u16, (*value >> 16) as u16];
                if transposed {
                    (m[column][row], m[column + 1][row]) = (low, high);
                } else {
                    (m[row][column], m[row][column + 1]) = (low, high);
                }
            }
        }
        for (row, address) in at.iter().enumerate().take(8 * a.len()) {
            let who = self.accessor(row as u32);
            let to = self.shared.store(who, *address, 16).map_err(|t| t.at(row as u32, *address))?;
            to.as_chunks_mut::<2>()
                .0
                .iter_mut()
                .zip(matrices[row / 8][row % 8])
                .for_each(|(to, x)| *to = x.to_le_bytes());
        }
        self.warp.sync += 1;
        Ok(())
    }

    /// Row addresses from the first lanes, checked and counted.
    fn matrix_rows(&mut self, matrices: usize, address: Address) -> Result<[u64; 32], LaneFault> {
        let mut at = self.addresses(address);
        for (lane, address) in at.iter_mut().enumerate().take(8 * matrices) {
            if (super::SHARED_WINDOW..super::SHARED_WINDOW + super::WINDOW).contains(address) {
                *address -= super::SHARED_WINDOW;
            }
            if *address % 16 != 0 {
                let message = "a row of a matrix at an address that is not a multiple of 16";
                return Err(LaneFault::new(FaultKind::Misaligned, message).at(lane as u32, *address));
            }
        }
        for m in 0..matrices {
            self.counts.bank_conflicts += bank_conflicts(0xFF << (8 * m), &at, 16);
        }
        Ok(at)
    }
}
