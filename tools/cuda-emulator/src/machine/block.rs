//! A block: its warps run in turn, each until it waits at a barrier or ends.

use super::Device;
use super::launch::{Launch, mix};
use super::step::{Core, Stop};
use super::warp::Warp;
use crate::counters::KernelCounters;
use crate::fault::{Fault, FaultKind, LaneFault};
use crate::ir::{BarrierReduction, Pred, Reg};
use crate::memory::race::BlockAccess;
use crate::memory::shared::SharedMemory;
use crate::options::Options;

/// The state of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WarpState {
    Ready,
    /// Waits at barrier `id`, in the instruction at `pc`.
    Waits {
        id: usize,
        pc: u32,
    },
    Ended,
}

/// A warp's input for `bar.red`, and where its results go.
#[derive(Clone, Copy, Debug)]
pub struct Contribution {
    pub f: BarrierReduction,
    pub d: Reg,
    pub p: Pred,
    /// Lanes in which the predicate is true, and lanes that take part.
    pub holds: u32,
    pub lanes: u32,
}

/// One of a block's sixteen barriers.
#[derive(Clone, Default)]
struct Barrier {
    /// Number of threads it waits for; None: all live threads.
    expected: Option<u32>,
    /// Number of threads that arrived, including those of `bar.arrive`.
    arrived: u32,
    contributions: Vec<(usize, Contribution)>,
}

pub struct Block {
    index: [u32; 3],
    who: BlockAccess,
    warps: Vec<Warp>,
    states: Vec<WarpState>,
    barriers: [Barrier; 16],
    shared: SharedMemory,
    /// Random state for choosing the next warp; None: the lowest from `first` on.
    draws: Option<u64>,
    first: usize,
}

impl Block {
    pub fn new(launch: &Launch<'_>, options: &Options) -> Self {
        let threads: u32 = launch.config.block.iter().product();
        let warps: Vec<Warp> = (0..threads.div_ceil(32)).map(|w| Warp::new(launch, w, options.checks)).collect();
        let dynamic = launch.kernel.dynamic_shared_offset + launch.config.dynamic_shared;
        let shared = dynamic.max(launch.kernel.static_shared);
        Block {
            index: [0; 3],
            who: BlockAccess { tracked: false, atomic: false, launch: 0, block: 0 },
            states: vec![WarpState::Ready; warps.len()],
            warps,
            barriers: Default::default(),
            shared: SharedMemory::new(shared, threads, options.checks),
            draws: options.order_seed,
            first: 0,
        }
    }

    /// Prepares for the block at `index`.
    pub fn begin(&mut self, index: [u32; 3], launch: &Launch<'_>, who: BlockAccess) {
        (self.index, self.who, self.first) = (index, who, 0);
        self.warps.iter_mut().for_each(|warp| warp.begin(launch, index));
        self.states.fill(WarpState::Ready);
        self.barriers = Default::default();
        self.shared.reset();
    }

    pub fn run(&mut self, launch: &Launch<'_>, device: &mut Device, counts: &mut KernelCounters) -> Result<(), Fault> {
        let mut slices = 0u64;
        device.memory.releases.enter(self.who);
        while let Some(w) = self.next_ready() {
            let mut core = Core {
                launch,
                warp: &mut self.warps[w],
                shared: &mut self.shared,
                memory: &mut device.memory,
                options: &device.options,
                counts,
                who: self.who,
            };
            let stop = core.run().map_err(|fault| self.report(launch, w, fault))?;
            match stop {
                Stop::Ended => self.states[w] = WarpState::Ended,
                Stop::Slice => {
                    slices += 1;
                    // It may wait for a write of another warp, so another warp runs next.
                    self.first = w + 1;
                }
                Stop::Barrier { id, count, waits, reduce } => {
                    let pc = self.warps[w].path.pc - 1;
                    self.arrive(launch, w, id, count, waits, reduce).map_err(|t| self.fault(launch, w, pc, t))?;
                }
            }
            if slices * super::step::SLICE > device.options.instruction_limit {
                let message = format!("the block ran {} instructions and does not end", slices * super::step::SLICE);
                return Err(self.report(launch, w, LaneFault::new(FaultKind::Deadlock, message)));
            }
            self.open_barriers();
        }
        match (0..self.warps.len()).find(|w| self.states[*w] != WarpState::Ended) {
            None => Ok(()),
            Some(w) => Err(self.deadlock(launch, w)),
        }
    }

    fn next_ready(&mut self) -> Option<usize> {
        let ready = |state: &WarpState| *state == WarpState::Ready;
        match &mut self.draws {
            None => {
                let n = self.states.len();
                (self.first..self.first + n).map(|w| w % n).find(|w| ready(&self.states[*w]))
            }
            Some(state) => {
                *state = mix(*state);
                let count = self.states.iter().filter(|p| ready(p)).count();
                let nth = (*state % count.max(1) as u64) as usize;
                self.states.iter().enumerate().filter(|(_, p)| ready(p)).nth(nth).map(|(w, _)| w)
            }
        }
    }

    fn arrive(
        &mut self,
        launch: &Launch<'_>,
        w: usize,
        id: u32,
        count: Option<u32>,
        waits: bool,
        reduce: Option<Contribution>,
    ) -> Result<(), LaneFault> {
        let misuse = |message: String| Err(LaneFault::new(FaultKind::Synchronisation, message));
        let id = id as usize;
        if id >= 16 {
            return misuse(format!("barrier {id}: a block has barriers 0 to 15"));
        }
        if let Some(count) = count.filter(|c| *c == 0 || c % 32 != 0) {
            return misuse(format!("barrier {id} for {count} threads: the count is a multiple of 32"));
        }
        // The barrier is the instruction before the next one.
        let pc = self.warps[w].path.pc - 1;
        let line = |pc: u32| launch.kernel.code[pc as usize].line;
        for (other, state) in self.states.iter().enumerate() {
            let WarpState::Waits { id: other_id, pc: other_pc } = *state else { continue };
            if other_id == id && count.is_none() && line(other_pc) != line(pc) {
                let at = &launch.program.lines[line(other_pc) as usize];
                return misuse(format!(
                    "warp {w} is at another barrier than warp {other}, which waits at {}:{}: a barrier in code that not all \
                     threads of the block reach",
                    at.file, at.line
                ));
            }
        }
        let barrier = &mut self.barriers[id];
        barrier.expected = count;
        barrier.arrived += self.warps[w].live.count_ones();
        barrier.contributions.extend(reduce.map(|r| (w, r)));
        if waits {
            self.states[w] = WarpState::Waits { id, pc };
        }
        Ok(())
    }

    /// Releases the warps at barriers that all threads have reached.
    fn open_barriers(&mut self) {
        let live: u32 = self.warps.iter().map(|warp| warp.live.count_ones()).sum();
        for id in 0..16 {
            let barrier = &mut self.barriers[id];
            if barrier.arrived == 0 || barrier.arrived < barrier.expected.unwrap_or(live) {
                continue;
            }
            let barrier = std::mem::take(barrier);
            self.shared.barrier();
            for state in &mut self.states {
                if matches!(state, WarpState::Waits { id: at, .. } if *at == id) {
                    *state = WarpState::Ready;
                }
            }
            give_results(&mut self.warps, &barrier.contributions);
        }
    }

    fn deadlock(&self, launch: &Launch<'_>, w: usize) -> Fault {
        let WarpState::Waits { id, pc } = self.states[w] else {
            unreachable!("no warp is ready, and this one has not ended")
        };
        let waiting = self.states.iter().filter(|p| matches!(p, WarpState::Waits { .. })).count();
        let ended = self.states.iter().filter(|p| **p == WarpState::Ended).count();
        let message = format!(
            "a deadlock: warp {w} waits at barrier {id} forever; {waiting} of {} warps wait, {ended} have ended",
            self.warps.len()
        );
        self.fault(launch, w, pc, LaneFault::new(FaultKind::Deadlock, message))
    }

    fn report(&self, launch: &Launch<'_>, w: usize, lane_fault: LaneFault) -> Fault {
        self.fault(launch, w, self.warps[w].path.pc, lane_fault)
    }

    fn fault(&self, launch: &Launch<'_>, w: usize, pc: u32, lane_fault: LaneFault) -> Fault {
        let line = launch.kernel.code.get(pc as usize).map_or(0, |i| i.line);
        let source = &launch.program.lines[line as usize];
        let [bx, by, _] = launch.config.block;
        let thread = 32 * w as u32 + lane_fault.lane % 32;
        Fault {
            kind: lane_fault.kind,
            kernel: launch.kernel.name.clone(),
            file: source.file.clone(),
            line: source.line,
            block: self.index,
            thread: [thread % bx, thread / bx % by, thread / bx / by],
            address: lane_fault.address,
            message: lane_fault.message,
        }
    }
}

fn give_results(warps: &mut [Warp], contributions: &[(usize, Contribution)]) {
    let holds: u32 = contributions.iter().map(|(_, c)| c.holds.count_ones()).sum();
    let all = contributions.iter().all(|(_, c)| c.holds == c.lanes);
    for (w, c) in contributions {
        let warp = &mut warps[*w];
        let lanes = |value: bool, old: u32| if value { old | c.lanes } else { old & !c.lanes };
        match c.f {
            BarrierReduction::Count if c.d != Reg::NONE => {
                let row = warp.row(c.d);
                (0..32).filter(|l| c.lanes >> l & 1 == 1).for_each(|l| row[l] = holds);
            }
            BarrierReduction::And | BarrierReduction::Or if c.p != Pred::NONE => {
                let value = if c.f == BarrierReduction::And { all } else { holds > 0 };
                let p = &mut warp.predicates[c.p.0 as usize];
                *p = lanes(value, *p);
            }
            _ => {}
        }
    }
}
