//! Instructions that combine the lanes of a warp or the warps of a block.

use super::Lowering;
use super::operands::exactly;
use crate::forms::Kind;
use crate::ir::error::{Lowered, Refusal, refuse};
use crate::ir::{BarrierReduction, Op, Pred, Reduction, Reg, Shuffle, Vote};
use crate::ptx::{Operand, Statement};

const SHUFFLES: &[(&str, Shuffle)] = &[
    ("shfl.sync.up.b32", Shuffle::Up),
    ("shfl.sync.down.b32", Shuffle::Down),
    ("shfl.sync.bfly.b32", Shuffle::Butterfly),
    ("shfl.sync.idx.b32", Shuffle::Index),
];

const VOTES: &[(&str, Vote)] = &[
    ("vote.sync.all.pred", Vote::All),
    ("vote.sync.any.pred", Vote::Any),
    ("vote.sync.uni.pred", Vote::Uniform),
    ("vote.sync.ballot.b32", Vote::Ballot),
];

const REDUCTIONS: &[(&str, Reduction)] = &[
    ("redux.sync.add.u32", Reduction::AddU32),
    ("redux.sync.add.s32", Reduction::AddU32),
    ("redux.sync.min.u32", Reduction::MinU32),
    ("redux.sync.max.u32", Reduction::MaxU32),
    ("redux.sync.min.s32", Reduction::MinS32),
    ("redux.sync.max.s32", Reduction::MaxS32),
    ("redux.sync.and.b32", Reduction::And),
    ("redux.sync.or.b32", Reduction::Or),
    ("redux.sync.xor.b32", Reduction::Xor),
];

const FENCES: &[&str] = &[
    "membar.cta",
    "membar.gl",
    "membar.sys",
    "fence.sc.cta",
    "fence.sc.gpu",
    "fence.sc.sys",
    "fence.acq_rel.cta",
    "fence.acq_rel.gpu",
    "fence.acq_rel.sys",
];

/// `match`: whether it is `all` (else `any`), whether it has 64 bits.
const MATCHES: &[(&str, (bool, bool))] = &[
    ("match.any.sync.b32", (false, false)),
    ("match.any.sync.b64", (false, true)),
    ("match.all.sync.b32", (true, false)),
    ("match.all.sync.b64", (true, true)),
];

fn find<T: Copy>(table: &[(&str, T)], opcode: &str) -> Option<T> {
    table.iter().find(|(name, _)| *name == opcode).map(|(_, value)| *value)
}

impl<'a> Lowering<'a> {
    pub fn collective(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        if let Some(mode) = find(SHUFFLES, s.opcode) {
            return self.shuffle(s, mode);
        }
        if let Some(mode) = find(VOTES, s.opcode) {
            return self.vote(s, mode);
        }
        if let Some((all, wide)) = find(MATCHES, s.opcode) {
            return self.match_lanes(s, all, wide);
        }
        if let Some(f) = find(REDUCTIONS, s.opcode) {
            let [d, a, mask] = exactly(s)?;
            let d = self.target(d, Kind::Bits32)?;
            let (a, mask) = (self.source(a, Kind::Bits32)?, self.source(mask, Kind::Bits32)?);
            self.emit(Op::Reduce { f, d, a, mask });
            return Ok(());
        }
        if s.opcode == "activemask.b32" {
            let [d] = exactly(s)?;
            let d = self.target(d, Kind::Bits32)?;
            self.emit(Op::ActiveMask { d });
            return Ok(());
        }
        Err(Refusal::UnknownForm)
    }

    /// `d` or `d|p`.
    fn result_and_predicate(&mut self, operand: &Operand<'a>) -> Lowered<(Reg, Pred)> {
        match operand {
            Operand::Pair(d, p) => Ok((self.target(&Operand::Name(d), Kind::Bits32)?, self.predicate_written(p)?)),
            d => Ok((self.target(d, Kind::Bits32)?, Pred::NONE)),
        }
    }

    fn shuffle(&mut self, s: &'a Statement<'a>, mode: Shuffle) -> Lowered<()> {
        let [d, a, b, c, mask] = exactly(s)?;
        let (d, p) = self.result_and_predicate(d)?;
        let (a, b) = (self.source(a, Kind::Bits32)?, self.source(b, Kind::Bits32)?);
        let (c, mask) = (self.source(c, Kind::Bits32)?, self.source(mask, Kind::Bits32)?);
        self.emit(Op::Shuffle { mode, d, p, a, b, c, mask });
        Ok(())
    }

    fn vote(&mut self, s: &'a Statement<'a>, mode: Vote) -> Lowered<()> {
        let [d, p, mask] = exactly(s)?;
        let (d, p_out) = match mode {
            Vote::Ballot => (self.target(d, Kind::Bits32)?, Pred::NONE),
            _ => (Reg::NONE, self.target_predicate(d)?),
        };
        let (p, negated) = self.predicate(p)?;
        let mask = self.source(mask, Kind::Bits32)?;
        self.emit(Op::Vote { mode, d, p_out, p, negated, mask });
        Ok(())
    }

    fn match_lanes(&mut self, s: &'a Statement<'a>, all: bool, wide: bool) -> Lowered<()> {
        let [d, a, mask] = exactly(s)?;
        let (d, p) = self.result_and_predicate(d)?;
        if !all && p != Pred::NONE {
            return refuse("`match.any` has no second result");
        }
        let a = self.source(a, if wide { Kind::Bits64 } else { Kind::Bits32 })?;
        let mask = self.source(mask, Kind::Bits32)?;
        self.emit(Op::Match { all, wide, d, p, a, mask });
        Ok(())
    }

    /// `bar`, `barrier`, `membar`, `fence`. For both spellings, the machine checks that all lanes reach a barrier
    /// together: `bar.x` is `barrier.x.aligned`.
    pub fn barrier(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        if FENCES.contains(&s.opcode) {
            let [] = exactly(s)?;
            self.emit(Op::Fence);
            return Ok(());
        }
        match s.opcode {
            "bar.warp.sync" => {
                let [mask] = exactly(s)?;
                let mask = self.source(mask, Kind::Bits32)?;
                self.emit(Op::WarpBarrier { mask });
                Ok(())
            }
            "bar.sync"
            | "bar.cta.sync"
            | "barrier.sync"
            | "barrier.sync.aligned"
            | "barrier.cta.sync"
            | "barrier.cta.sync.aligned" => {
                let (id, count) = self.barrier_operands(s, &s.operands)?;
                self.emit(Op::Barrier { id, count });
                Ok(())
            }
            "bar.arrive"
            | "bar.cta.arrive"
            | "barrier.arrive"
            | "barrier.arrive.aligned"
            | "barrier.cta.arrive"
            | "barrier.cta.arrive.aligned" => {
                let (id, count) = self.barrier_operands(s, &s.operands)?;
                if count == Reg::NONE {
                    return refuse(format!("`{}` takes a number of threads", s.opcode));
                }
                self.emit(Op::BarrierArrive { id, count });
                Ok(())
            }
            _ => self.barrier_reduction(s),
        }
    }

    /// `id` and optionally `count`.
    fn barrier_operands(&mut self, s: &Statement, operands: &[Operand<'a>]) -> Lowered<(Reg, Reg)> {
        let (id, count) = match operands {
            [id] => (id, None),
            [id, count] => (id, Some(count)),
            _ => return refuse(format!("`{}` with {} operands", s.opcode, s.operands.len())),
        };
        let id = self.source(id, Kind::Bits32)?;
        let count = match count {
            Some(count) => self.source(count, Kind::Bits32)?,
            None => Reg::NONE,
        };
        Ok((id, count))
    }

    /// `bar.red.popc.u32 d, id[, count], p`, `bar.red.and.pred q, id[, count], !p`.
    fn barrier_reduction(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let name = s.opcode.replacen("barrier.", "bar.", 1).replacen(".cta", "", 1).replacen(".aligned", "", 1);
        let f = match name.as_str() {
            "bar.red.popc.u32" => BarrierReduction::Count,
            "bar.red.and.pred" => BarrierReduction::And,
            "bar.red.or.pred" => BarrierReduction::Or,
            _ => return Err(Refusal::UnknownForm),
        };
        let [d, middle @ .., p] = s.operands.as_slice() else {
            return refuse(format!("`{}` with {} operands", s.opcode, s.operands.len()));
        };
        let (d, p_out) = match f {
            BarrierReduction::Count => (self.target(d, Kind::Bits32)?, Pred::NONE),
            _ => (Reg::NONE, self.target_predicate(d)?),
        };
        let (id, count) = self.barrier_operands(s, middle)?;
        let (p, negated) = self.predicate(p)?;
        self.emit(Op::BarrierReduce { f, id, count, d, p_out, p, negated });
        Ok(())
    }
}
