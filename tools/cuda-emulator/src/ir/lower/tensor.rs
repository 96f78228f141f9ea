//! Copies and matmuls of tiles: `cp.async`, `ldmatrix`, `stmatrix`, `mma.sync`.

use super::Lowering;
use super::modifiers::Modifiers;
use super::operands::exactly;
use crate::forms::Kind;
use crate::ir::error::{Lowered, Refusal, refuse};
use crate::ir::{MmaShape, Op, Reg};
use crate::ptx::{Operand, Statement};

/// The forms of `mma.sync` with the number of registers of d, a, b and c.
const MMA: &[(&str, MmaShape, [usize; 4])] = &[
    ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", MmaShape::M16N8K16Bf16, [4, 4, 2, 4]),
    ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", MmaShape::M16N8K16F16, [4, 4, 2, 4]),
    ("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", MmaShape::M16N8K16F16Accumulate16, [2, 4, 2, 2]),
    ("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", MmaShape::M16N8K8Bf16, [4, 2, 1, 4]),
    ("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", MmaShape::M16N8K8F16, [4, 2, 1, 4]),
    ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", MmaShape::M16N8K8Tf32, [4, 4, 2, 4]),
    ("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", MmaShape::M16N8K4Tf32, [4, 2, 1, 4]),
];

const MATRICES: &[(&str, usize)] = &[("x1", 1), ("x2", 2), ("x4", 4)];
const PREFETCH_SIZE: &[&str] = &["L2::64B", "L2::128B", "L2::256B"];

impl<'a> Lowering<'a> {
    pub fn copy_async(&mut self, s: &'a Statement<'a>, mut m: Modifiers) -> Lowered<()> {
        match s.opcode {
            "cp.async.commit_group" => {
                let [] = exactly(s)?;
                self.emit(Op::CommitGroup);
                return Ok(());
            }
            "cp.async.wait_all" => {
                let [] = exactly(s)?;
                self.emit(Op::WaitAll);
                return Ok(());
            }
            "cp.async.wait_group" => {
                let [Operand::Integer(pending @ 0..=0xffff)] = exactly(s)? else {
                    return refuse("`cp.async.wait_group` takes a number of groups");
                };
                self.emit(Op::WaitGroup { pending: *pending as u32 });
                return Ok(());
            }
            _ => {}
        }
        if !m.skip(&["async"]) {
            return Err(Refusal::UnknownForm);
        }
        let around_l1 = m.take(&[("ca", false), ("cg", true)]).ok_or(Refusal::UnknownForm)?;
        if !m.skip(&["shared", "shared::cta"]) || !m.skip(&["global"]) {
            return Err(Refusal::UnknownForm);
        }
        m.skip(PREFETCH_SIZE);
        m.end()?;
        let (to, from, size, source_size) = match s.operands.as_slice() {
            [to, from, size] => (to, from, size, None),
            [to, from, size, source_size] => (to, from, size, Some(source_size)),
            _ => return refuse(format!("`{}` with {} operands", s.opcode, s.operands.len())),
        };
        let size = match size {
            Operand::Integer(16) => 16,
            Operand::Integer(size @ (4 | 8)) if !around_l1 => *size as u8,
            _ => return refuse("`cp.async.ca` copies 4, 8 or 16 bytes, `cp.async.cg` 16"),
        };
        let source_size = match source_size {
            Some(source_size) => self.source(source_size, Kind::Bits32)?,
            None => Reg::NONE,
        };
        let (to, from) = (self.address(to)?, self.address(from)?);
        self.emit(Op::CopyAsync { to, from, size, source_size });
        Ok(())
    }

    /// `ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16 {…}, [a]` and `stmatrix`, whose operands are reversed.
    pub fn matrix_access(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let (mnemonic, mut m) = Modifiers::split(s.opcode);
        if !(m.skip(&["sync"]) && m.skip(&["aligned"]) && m.skip(&["m8n8"])) {
            return Err(Refusal::UnknownForm);
        }
        let n = m.take(MATRICES).ok_or(Refusal::UnknownForm)?;
        let transposed = m.skip(&["trans"]);
        if !(m.skip(&["shared", "shared::cta"]) && m.skip(&["b16"])) {
            return Err(Refusal::UnknownForm);
        }
        m.end()?;
        let [first, second] = exactly(s)?;
        if mnemonic == "ldmatrix" {
            let regs = self.exact_targets(first, n)?;
            let address = self.address(second)?;
            let d = self.list(&regs);
            self.emit(Op::LoadMatrix { d, transposed, address });
        } else {
            let address = self.address(first)?;
            let regs = self.sources(second, n, Kind::Bits32)?;
            let a = self.list(&regs);
            self.emit(Op::StoreMatrix { a, transposed, address });
        }
        Ok(())
    }

    /// `n` different 32-bit registers.
    fn exact_targets(&mut self, operand: &Operand<'a>, n: usize) -> Lowered<Vec<Reg>> {
        let mut regs = Vec::with_capacity(n);
        for part in self.parts(operand, n)? {
            let reg = self.target(part, Kind::Bits32)?;
            if regs.contains(&reg) {
                return refuse("a register is written twice");
            }
            regs.push(reg);
        }
        Ok(regs)
    }

    pub fn mma(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let Some((_, shape, counts)) = MMA.iter().find(|(name, ..)| *name == s.opcode) else {
            return Err(Refusal::UnknownForm);
        };
        let [d, a, b, c] = exactly(s)?;
        let mut regs = self.exact_targets(d, counts[0])?;
        for (operand, n) in [a, b, c].into_iter().zip(&counts[1..]) {
            regs.extend(self.sources(operand, *n, Kind::Bits32)?);
        }
        let registers = self.list(&regs);
        self.emit(Op::Mma { shape: *shape, registers });
        Ok(())
    }
}
