//! Operations across the lanes of a warp: shuffles, votes, matches, reductions.

use super::step::{Core, first, lanes, write};
use crate::fault::{FaultKind, LaneFault};
use crate::ir::{Pred, Reduction, Reg, Shuffle, Vote};

impl Core<'_> {
    /// Checks a member mask: it must be the same in all lanes, contain every lane that executes the instruction, and
    /// contain no live lane that does not.
    pub fn members(&mut self, what: &str, members: Reg, mask: u32) -> Result<u32, LaneFault> {
        let wrong = |lane: u32, message: String| Err(LaneFault::new(FaultKind::Synchronisation, message).lane(lane));
        let Some(members) = self.warp.uniform(members, mask) else {
            return wrong(first(mask), format!("{what} with member masks that differ between lanes"));
        };
        let stray = mask & !members;
        if stray != 0 {
            return wrong(
                first(stray),
                format!("{what} by lanes {stray:#010x}, which its mask {members:#010x} does not name"),
            );
        }
        let missing = members & self.warp.live & !mask;
        if missing != 0 {
            let message = format!("{what} names lanes {missing:#010x}, which live but do not reach it with the others");
            return wrong(first(missing), message);
        }
        Ok(members)
    }

    /// `shfl.sync` by the rules of the PTX ISA: c contains the clamp in its low five bits and the segment mask from bit
    /// 8.
    pub fn shuffle(
        &mut self,
        mode: Shuffle,
        d: Reg,
        p: Pred,
        [a, b, c]: [Reg; 3],
        members: Reg,
        mask: u32,
    ) -> Result<(), LaneFault> {
        self.members("shfl.sync", members, mask)?;
        let (a, b, c) = (*self.warp.row(a), *self.warp.row(b), *self.warp.row(c));
        let (mut source, mut inside) = ([0u32; 32], 0u32);
        for lane in 0..32u32 {
            let (b, clamp, segment) = (b[lane as usize] & 31, c[lane as usize] & 31, c[lane as usize] >> 8 & 31);
            let (most, least) = (lane & segment | clamp & !segment, lane & segment);
            let (from, ok) = match mode {
                Shuffle::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= most as i32),
                Shuffle::Down => (lane + b, lane + b <= most),
                Shuffle::Butterfly => (lane ^ b, lane ^ b <= most),
                Shuffle::Index => (least | b & !segment, least | b & !segment <= most),
            };
            source[lane as usize] = if ok { from } else { lane };
            inside |= u32::from(ok) << lane;
        }
        if self.options.checks
            && let Some(lane) = lanes(mask).find(|l| mask >> source[*l as usize] & 1 == 0)
        {
            let message = format!("shfl.sync reads lane {}, which does not take part", source[lane as usize]);
            return Err(LaneFault::new(FaultKind::Synchronisation, message).lane(lane));
        }
        if d != Reg::NONE {
            write(self.warp.row(d), mask, |l| a[source[l] as usize % 32]);
        }
        self.set(p, inside, mask);
        self.warp.sync += 1;
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // the operands of the instruction
    pub fn vote(
        &mut self,
        mode: Vote,
        d: Reg,
        p_out: Pred,
        p: Pred,
        negated: bool,
        members: Reg,
        mask: u32,
    ) -> Result<(), LaneFault> {
        self.members("vote.sync", members, mask)?;
        let value = self.warp.predicates[p.0 as usize];
        let holds = if negated { !value } else { value } & mask;
        let result = match mode {
            Vote::All => holds == mask,
            Vote::Any => holds != 0,
            Vote::Uniform => holds == mask || holds == 0,
            Vote::Ballot => {
                write(self.warp.row(d), mask, |_| holds);
                self.warp.sync += 1;
                return Ok(());
            }
        };
        self.set(p_out, if result { u32::MAX } else { 0 }, mask);
        self.warp.sync += 1;
        Ok(())
    }

    /// `match.any`: the mask of lanes with the same value. `match.all`: the mask of all lanes if they agree, else 0.
    #[allow(clippy::too_many_arguments)] // the operands of the instruction
    pub fn matching(
        &mut self,
        all: bool,
        wide: bool,
        d: Reg,
        p: Pred,
        a: Reg,
        members: Reg,
        mask: u32,
    ) -> Result<(), LaneFault> {
        self.members("match.sync", members, mask)?;
        let values: [u64; 32] = if wide { *self.warp.row_pair(a) } else { self.warp.row(a).map(u64::from) };
        let same = |lane: usize| lanes(mask).filter(|l| values[*l as usize] == values[lane]).fold(0, |m, l| m | 1 << l);
        if all {
            let agree = same(first(mask) as usize) == mask;
            if d != Reg::NONE {
                write(self.warp.row(d), mask, |_| if agree { mask } else { 0 });
            }
            self.set(p, if agree { u32::MAX } else { 0 }, mask);
        } else if d != Reg::NONE {
            write(self.warp.row(d), mask, same);
        }
        self.warp.sync += 1;
        Ok(())
    }

    /// `redux.sync`.
    pub fn reduce(&mut self, f: Reduction, d: Reg, a: Reg, members: Reg, mask: u32) -> Result<(), LaneFault> {
        self.members("redux.sync", members, mask)?;
        let values = *self.warp.row(a);
        let combine = |x: u32, y: u32| match f {
            Reduction::AddU32 => x.wrapping_add(y),
            Reduction::MinU32 => x.min(y),
            Reduction::MaxU32 => x.max(y),
            Reduction::MinS32 => (x as i32).min(y as i32) as u32,
            Reduction::MaxS32 => (x as i32).max(y as i32) as u32,
            Reduction::And => x & y,
            Reduction::Or => x | y,
            Reduction::Xor => x ^ y,
        };
        let result = lanes(mask).map(|l| values[l as usize]).reduce(combine).unwrap_or(0);
        write(self.warp.row(d), mask, |_| result);
        self.warp.sync += 1;
        Ok(())
    }
}
