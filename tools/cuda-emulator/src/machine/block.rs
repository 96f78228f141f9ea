//! A block: its warps take turns, each runs until it waits at a barrier or ends.

use super::Device;
use super::launch::{Launch, mix};
use super::step::{Core, Stop};
use super::warp::Warp;
use crate::counters::KernelCounters;
use crate::fault::{Fault, FaultKind, Trouble};
use crate::ir::{BarrierReduction, Pred, Reg};
use crate::memory::race::BlockAccess;
use crate::memory::shared::SharedMemory;
use crate::options::Options;

/// Where a warp stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    /// At barrier `id`, since the instruction at `pc`.
    Waits {
        id: usize,
        pc: u32,
    },
    Ended,
}

/// What a warp brings to `bar.red` and wants back.
#[derive(Clone, Copy, Debug)]
pub struct Contribution {
    pub f: BarrierReduction,
    pub d: Reg,
    pub p: Pred,
    /// Lanes for which the predicate holds, and lanes that take part.
    pub holds: u32,
    pub lanes: u32,
}

/// One of a block's sixteen barriers.
#[derive(Clone, Default)]
struct Barrier {
    /// Threads it waits for; None: all that live.
    expected: Option<u32>,
    /// Threads that arrived, those of `bar.arrive` included.
    arrived: u32,
    contributions: Vec<(usize, Contribution)>,
}

pub struct Block {
    index: [u32; 3],
    who: BlockAccess,
    warps: Vec<Warp>,
    places: Vec<Place>,
    barriers: [Barrier; 16],
    shared: SharedMemory,
    /// Draws which warp is next; None: the lowest from `first` on.
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
            places: vec![Place::Ready; warps.len()],
            warps,
            barriers: Default::default(),
            shared: SharedMemory::new(shared, threads, options.checks),
            draws: options.order_seed,
            first: 0,
        }
    }

    /// Makes everything ready for the block at `index`.
    pub fn begin(&mut self, index: [u32; 3], launch: &Launch<'_>, who: BlockAccess) {
        (self.index, self.who, self.first) = (index, who, 0);
        self.warps.iter_mut().for_each(|warp| warp.begin(launch, index));
        self.places.fill(Place::Ready);
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
            let stop = core.run().map_err(|trouble| self.report(launch, w, trouble))?;
            match stop {
                Stop::Ended => self.places[w] = Place::Ended,
                Stop::Slice => {
                    slices += 1;
                    // It may wait for what another warp writes: let that one go on.
                    self.first = w + 1;
                }
                Stop::Barrier { id, count, waits, reduce } => {
                    let pc = self.warps[w].path.pc - 1;
                    self.arrive(launch, w, id, count, waits, reduce).map_err(|t| self.fault(launch, w, pc, t))?;
                }
            }
            if slices * super::step::SLICE > device.options.instruction_limit {
                let message = format!("the block ran {} instructions and does not end", slices * super::step::SLICE);
                return Err(self.report(launch, w, Trouble::new(FaultKind::Deadlock, message)));
            }
            self.open_barriers();
        }
        match (0..self.warps.len()).find(|w| self.places[*w] != Place::Ended) {
            None => Ok(()),
            Some(w) => Err(self.deadlock(launch, w)),
        }
    }

    fn next_ready(&mut self) -> Option<usize> {
        let ready = |place: &Place| *place == Place::Ready;
        match &mut self.draws {
            None => {
                let n = self.places.len();
                (self.first..self.first + n).map(|w| w % n).find(|w| ready(&self.places[*w]))
            }
            Some(state) => {
                *state = mix(*state);
                let count = self.places.iter().filter(|p| ready(p)).count();
                let nth = (*state % count.max(1) as u64) as usize;
                self.places.iter().enumerate().filter(|(_, p)| ready(p)).nth(nth).map(|(w, _)| w)
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
    ) -> Result<(), Trouble> {
        let misuse = |message: String| Err(Trouble::new(FaultKind::Synchronisation, message));
        let id = id as usize;
        if id >= 16 {
            return misuse(format!("barrier {id}: a block has barriers 0 to 15"));
        }
        if let Some(count) = count.filter(|c| *c == 0 || c % 32 != 0) {
            return misuse(format!("barrier {id} for {count} threads: the count is a multiple of 32"));
        }
        // The instruction before the one that comes next.
        let pc = self.warps[w].path.pc - 1;
        let line = |pc: u32| launch.kernel.code[pc as usize].line;
        for (other, place) in self.places.iter().enumerate() {
            let Place::Waits { id: other_id, pc: other_pc } = *place else { continue };
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
            self.places[w] = Place::Waits { id, pc };
        }
        Ok(())
    }

    /// Lets go whoever waits at a barrier that all have reached.
    fn open_barriers(&mut self) {
        let live: u32 = self.warps.iter().map(|warp| warp.live.count_ones()).sum();
        for id in 0..16 {
            let barrier = &mut self.barriers[id];
            if barrier.arrived == 0 || barrier.arrived < barrier.expected.unwrap_or(live) {
                continue;
            }
            let barrier = std::mem::take(barrier);
            self.shared.barrier();
            for place in &mut self.places {
                if matches!(place, Place::Waits { id: at, .. } if *at == id) {
                    *place = Place::Ready;
                }
            }
            give_results(&mut self.warps, &barrier.contributions);
        }
    }

    fn deadlock(&self, launch: &Launch<'_>, w: usize) -> Fault {
        let Place::Waits { id, pc } = self.places[w] else {
            unreachable!("no warp is ready, and this one has not ended")
        };
        let waiting = self.places.iter().filter(|p| matches!(p, Place::Waits { .. })).count();
        let ended = self.places.iter().filter(|p| **p == Place::Ended).count();
        let message = format!(
            "a deadlock: warp {w} waits at barrier {id} for ever; {waiting} of {} warps wait, {ended} have ended",
            self.warps.len()
        );
        self.fault(launch, w, pc, Trouble::new(FaultKind::Deadlock, message))
    }

    fn report(&self, launch: &Launch<'_>, w: usize, trouble: Trouble) -> Fault {
        self.fault(launch, w, self.warps[w].path.pc, trouble)
    }

    fn fault(&self, launch: &Launch<'_>, w: usize, pc: u32, trouble: Trouble) -> Fault {
        let line = launch.kernel.code.get(pc as usize).map_or(0, |i| i.line);
        let source = &launch.program.lines[line as usize];
        let [bx, by, _] = launch.config.block;
        let thread = 32 * w as u32 + trouble.lane % 32;
        Fault {
            kind: trouble.kind,
            kernel: launch.kernel.name.clone(),
            file: source.file.clone(),
            line: source.line,
            block: self.index,
            thread: [thread % bx, thread / bx % by, thread / bx / by],
            address: trouble.address,
            message: trouble.message,
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
