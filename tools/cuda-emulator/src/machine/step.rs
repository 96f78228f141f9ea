//! Runs instructions of a warp until it waits at a barrier, ends, or has used its time slice.

use super::block::Contribution;
use super::launch::Launch;
use super::warp::Warp;
use super::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::counters::KernelCounters;
use crate::fault::{FaultKind, LaneFault};
use crate::forms::Level;
use crate::ir::{Combine, Op, Pred, PredicateLogic, Reg, Space};
use crate::memory::global::GlobalMemory;
use crate::memory::race::BlockAccess;
use crate::memory::shared::SharedMemory;
use crate::options::Options;
use crate::tensor_core;

/// Instructions in a time slice; then another warp runs, in case this one waits for it in a loop.
pub const SLICE: u64 = 1 << 16;

/// Why a warp stopped.
pub enum Stop {
    Ended,
    Slice,
    /// At a barrier; the warp continues after it when it runs again.
    Barrier {
        id: u32,
        count: Option<u32>,
        waits: bool,
        reduce: Option<Contribution>,
    },
}

/// A warp with everything that its instructions access.
pub struct Core<'a> {
    pub launch: &'a Launch<'a>,
    pub warp: &'a mut Warp,
    pub shared: &'a mut SharedMemory,
    pub memory: &'a mut GlobalMemory,
    pub options: &'a Options,
    pub counts: &'a mut KernelCounters,
    pub who: BlockAccess,
}

impl Core<'_> {
    pub fn run(&mut self) -> Result<Stop, LaneFault> {
        let before = self.warp.instructions;
        let stop = self.steps();
        self.counts.warp_instructions += self.warp.instructions - before;
        stop
    }

    fn steps(&mut self) -> Result<Stop, LaneFault> {
        let launch = self.launch;
        let code = &launch.kernel.code[..];
        let rows = self.warp.file();
        let turn = self.warp.instructions + SLICE;
        loop {
            if !self.warp.pop_ended_paths() {
                return Ok(Stop::Ended);
            }
            if self.warp.instructions >= turn {
                return Ok(Stop::Slice);
            }
            let path = self.warp.path;
            let Some(instruction) = code.get(path.pc as usize) else {
                // Code that runs past its end returns.
                self.warp.exit(path.mask);
                continue;
            };
            self.warp.instructions += 1;
            let guard = self.warp.predicates[instruction.guard.predicate.0 as usize];
            let mask = path.mask & if instruction.guard.negated { !guard } else { guard };
            match &instruction.op {
                Op::Compute { run, operands } => {
                    if mask != 0 {
                        // Safety: the loader checked the operands against the kernel's rows and chose the form for this
                        // processor.
                        unsafe { run(rows, *operands, mask) };
                    }
                }
                Op::Compare { run, a, b, p, q, combine } => {
                    // Safety: as above.
                    let holds = unsafe { run(rows, *a, *b) };
                    self.compared(holds, *p, *q, *combine, mask);
                }
                Op::Branch { target, reconvergence } => {
                    let diverged = self.warp.branch(mask, *target, *reconvergence);
                    self.counts.divergent_branches += u64::from(diverged);
                    continue;
                }
                Op::Exit => {
                    self.warp.exit(mask);
                    if self.warp.path.mask == 0 {
                        continue;
                    }
                }
                _ if mask == 0 => {}
                op => {
                    if let Some(stop) = self.rare(op, mask)? {
                        if matches!(stop, Stop::Slice) {
                            continue;
                        }
                        self.warp.path.pc += 1;
                        return Ok(stop);
                    }
                }
            }
            self.warp.path.pc += 1;
        }
    }

    #[inline(always)]
    fn compared(&mut self, holds: u32, p: Pred, q: Pred, combine: Combine, mask: u32) {
        let with = self.warp.predicates[combine.with.0 as usize];
        let with = if combine.negated { !with } else { with };
        self.set(p, logic(combine.f, holds, with), mask);
        self.set(q, logic(combine.f, !holds, with), mask);
    }

    /// Sets a predicate in the lanes of `mask`.
    #[inline(always)]
    pub fn set(&mut self, p: Pred, value: u32, mask: u32) {
        if p != Pred::NONE {
            let old = &mut self.warp.predicates[p.0 as usize];
            *old = *old & !mask | value & mask;
        }
    }

    /// Everything except arithmetic and branches. Returns `Stop::Slice` after a jump.
    fn rare(&mut self, op: &Op, mask: u32) -> Result<Option<Stop>, LaneFault> {
        let kernel = self.launch.kernel;
        match op {
            Op::Select32 { d, a, b, p } => {
                let (a, b) = (*self.warp.row(*a), *self.warp.row(*b));
                let p = self.warp.predicates[p.0 as usize];
                write(self.warp.row(*d), mask, |l| if p >> l & 1 == 1 { a[l] } else { b[l] });
            }
            Op::Select64 { d, a, b, p } => {
                let (a, b) = (*self.warp.row_pair(*a), *self.warp.row_pair(*b));
                let p = self.warp.predicates[p.0 as usize];
                write(self.warp.row_pair(*d), mask, |l| if p >> l & 1 == 1 { a[l] } else { b[l] });
            }
            Op::PredicateLogic { f, d, a, b } => {
                let (a, b) = (self.warp.predicates[a.0 as usize], self.warp.predicates[b.0 as usize]);
                self.set(*d, logic(*f, a, b), mask);
            }
            Op::LoadParameter { access, d, offset } => self.load_parameter(*access, kernel.list(*d), *offset, mask),
            Op::Load { access, d, address } => self.load(*access, kernel.list(*d), *address, mask)?,
            Op::Store { access, a, address } => self.store(*access, kernel.list(*a), *address, mask)?,
            Op::Atomic { f, kind, space, d, address, b, c } => {
                self.atomic(*f, *kind, *space, *d, *address, [*b, *c], mask)?;
            }
            Op::ConvertAddress { d, a, space, to_space } => self.convert_address(*d, *a, *space, *to_space, mask),
            Op::CopyAsync { to, from, size, source_size } => self.copy_async(*to, *from, *size, *source_size, mask)?,
            Op::CommitGroup => self.each_thread(mask, SharedMemory::commit),
            Op::WaitGroup { pending } => self.each_thread(mask, |shared, thread| shared.wait(thread, *pending)),
            Op::WaitAll => self.each_thread(mask, SharedMemory::wait_all),
            Op::LoadMatrix { d, transposed, address } => {
                self.load_matrix(kernel.list(*d), *transposed, *address, mask)?
            }
            Op::StoreMatrix { a, transposed, address } => {
                self.store_matrix(kernel.list(*a), *transposed, *address, mask)?
            }
            Op::Mma { shape, registers } => {
                self.whole_warp("mma.sync", mask)?;
                let (level, rows) = (self.level(), self.warp.file());
                // Safety: the loader checked the registers, and the level is that of the processor.
                unsafe { tensor_core::multiply(level, self.options.model(), *shape, rows, kernel.list(*registers)) };
                self.counts.mma += 1;
                self.warp.sync += 1;
            }
            Op::BranchTable { index, first, count, reconvergence } => {
                self.branch_table(*index, *first, *count, *reconvergence, mask)?;
                return Ok(Some(Stop::Slice));
            }
            Op::Trap => {
                return Err(LaneFault::new(FaultKind::Trap, "a trap, or an assertion that failed").lane(first(mask)));
            }
            Op::Barrier { .. } | Op::BarrierArrive { .. } | Op::BarrierReduce { .. } => {
                return self.barrier(op, mask).map(Some);
            }
            Op::WarpBarrier { mask: members } => {
                self.members("bar.warp.sync", *members, mask)?;
                self.warp.sync += 1;
            }
            Op::Shuffle { mode, d, p, a, b, c, mask: members } => {
                self.shuffle(*mode, *d, *p, [*a, *b, *c], *members, mask)?;
            }
            Op::Vote { mode, d, p_out, p, negated, mask: members } => {
                self.vote(*mode, *d, *p_out, *p, *negated, *members, mask)?;
            }
            Op::Match { all, wide, d, p, a, mask: members } => {
                self.matching(*all, *wide, *d, *p, *a, *members, mask)?
            }
            Op::Reduce { f, d, a, mask: members } => self.reduce(*f, *d, *a, *members, mask)?,
            Op::ActiveMask { d } => write(self.warp.row(*d), mask, |_| mask),
            Op::ReadClock { d, wide } => {
                let now = self.warp.instructions;
                if *wide {
                    write(self.warp.row_pair(*d), mask, |_| now)
                } else {
                    write(self.warp.row(*d), mask, |_| now as u32)
                }
            }
            Op::Fence => self.memory.releases.fence(),
            Op::Nothing => {}
            Op::Compute { .. } | Op::Compare { .. } | Op::Branch { .. } | Op::Exit => unreachable!("done in `steps`"),
        }
        Ok(None)
    }

    fn each_thread(&mut self, mask: u32, mut f: impl FnMut(&mut SharedMemory, u32)) {
        for lane in lanes(mask) {
            f(self.shared, 32 * self.warp.number + lane);
        }
    }

    pub fn level(&self) -> Level {
        static LEVEL: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *LEVEL.get_or_init(Level::detect)
    }

    fn convert_address(&mut self, d: Reg, a: Reg, space: Space, to_space: bool, mask: u32) {
        let window = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Global | Space::Constant | Space::Generic => 0,
        };
        let a = *self.warp.row_pair(a);
        write(self.warp.row_pair(d), mask, |l| {
            if to_space { a[l].wrapping_sub(window) } else { a[l].wrapping_add(window) }
        });
    }

    /// `brx.idx`: lanes diverge by their target; the target of the first lane runs first.
    fn branch_table(
        &mut self,
        index: Reg,
        table: u32,
        count: u32,
        reconvergence: u32,
        mask: u32,
    ) -> Result<(), LaneFault> {
        let index = *self.warp.row(index);
        if let Some(lane) = lanes(mask).find(|l| index[*l as usize] >= count) {
            let message = format!("brx.idx {} in a table of {count} targets", index[lane as usize]);
            return Err(LaneFault::new(FaultKind::IllegalAddress, message).lane(lane));
        }
        let targets = &self.launch.kernel.targets;
        let target = |lane: u32| targets[(table + index[lane as usize]) as usize];
        let mut sides: Vec<(u32, u32)> = Vec::new();
        for lane in lanes(mask) {
            match sides.iter_mut().find(|(to, _)| *to == target(lane)) {
                Some((_, together)) => *together |= 1 << lane,
                None => sides.push((target(lane), 1 << lane)),
            }
        }
        let rest = self.warp.path.mask & !mask;
        if rest != 0 {
            // Lanes that are masked by the guard fall through.
            sides.push((self.warp.path.pc + 1, rest));
        }
        match sides[..] {
            [(to, _)] => self.warp.path.pc = to,
            _ => {
                self.counts.divergent_branches += 1;
                self.warp.diverge(sides, reconvergence);
            }
        }
        Ok(())
    }

    fn barrier(&mut self, op: &Op, mask: u32) -> Result<Stop, LaneFault> {
        let (id, count, waits, reduce) = match *op {
            Op::Barrier { id, count } => (id, count, true, None),
            Op::BarrierArrive { id, count } => (id, count, false, None),
            Op::BarrierReduce { f, id, count, d, p_out, p, negated } => {
                let value = self.warp.predicates[p.0 as usize];
                let holds = if negated { !value } else { value } & mask;
                (id, count, true, Some(Contribution { f, d, p: p_out, holds, lanes: mask }))
            }
            _ => unreachable!("a barrier"),
        };
        if mask != self.warp.live {
            let missing = self.warp.live & !mask;
            let message = format!(
                "a barrier in divergent code: lanes {missing:#010x} of the warp live but do not reach it with the others"
            );
            return Err(LaneFault::new(FaultKind::Synchronisation, message).lane(first(missing)));
        }
        let mut value = |reg: Reg| {
            let uneven =
                || LaneFault::new(FaultKind::Synchronisation, "a barrier whose number or count differs between lanes");
            if reg == Reg::NONE { Ok(None) } else { self.warp.uniform(reg, mask).map(Some).ok_or_else(uneven) }
        };
        let (id, count) = (value(id)?.unwrap_or(0), value(count)?);
        self.warp.sync += 1;
        Ok(Stop::Barrier { id, count, waits, reduce })
    }

    /// `.aligned` instructions need all lanes of the warp.
    pub fn whole_warp(&self, what: &str, mask: u32) -> Result<(), LaneFault> {
        if mask == u32::MAX {
            return Ok(());
        }
        let message = format!("{what} with only lanes {mask:#010x}: it needs all 32");
        Err(LaneFault::new(FaultKind::Synchronisation, message).lane(first(!mask)))
    }
}

#[inline(always)]
fn logic(f: PredicateLogic, a: u32, b: u32) -> u32 {
    match f {
        PredicateLogic::And => a & b,
        PredicateLogic::Or => a | b,
        PredicateLogic::Xor => a ^ b,
        PredicateLogic::Not => !a,
        PredicateLogic::Move => a,
    }
}

/// Sets the lanes of `mask`.
#[inline(always)]
pub fn write<T: Copy>(row: &mut [T; 32], mask: u32, value: impl Fn(usize) -> T) {
    for (l, to) in row.iter_mut().enumerate() {
        if mask >> l & 1 == 1 {
            *to = value(l);
        }
    }
}

/// Indices of the lanes in a mask, ascending.
#[inline(always)]
pub fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        (rest != 0).then(|| {
            rest &= rest - 1;
            lane
        })
    })
}

/// The lowest lane of a mask; 0 for an empty mask.
#[inline(always)]
pub fn first(mask: u32) -> u32 {
    mask.trailing_zeros() % 32
}
