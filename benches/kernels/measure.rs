//! How a row is measured: the op's own `cost()`, every copy of its arguments once, then timed batches, then its outputs.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use patarm::cuda::Cuda;
use patarm::ops::adamw::{AdamW, AdamWStep};
use patarm::ops::attention::{Attention, AttentionBackward, AttentionForward};
use patarm::ops::embedding::{Embedding, EmbeddingBackward, EmbeddingForward};
use patarm::ops::global_norm::{GlobalNorm, Norm};
use patarm::ops::linear::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward};
use patarm::ops::lm_head::{LmHead, LmHeadLogits, LmHeadLoss};
use patarm::ops::qk_norm_rope::{QkNormRope, QkNormRopeBackward, QkNormRopeForward};
use patarm::ops::rmsnorm::{RmsNorm, RmsNormBackward, RmsNormForward};
use patarm::ops::sample::{Sample, Sampler};
use patarm::ops::score_margin::{ScoreMargin, ScoreMargins};
use patarm::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};
use patarm::ops::{Backend, Cost, OpError, OpResult};
use patarm::tensor::Device;

use super::buffers::{CACHES, Output, Set};
use super::predictions::Ceilings;
use super::report::{Report, Times};
use super::{Options, Shape, rows};

/// The arguments of an op: their cost, and the call.
pub trait Call {
    fn cost(&self) -> Cost;
    fn run(self, device: &Cuda) -> OpResult;
}

macro_rules! calls {
    ($($arguments:ident, $op:ident;)*) => {
        $(impl Call for $arguments<'_, Cuda> {
            fn cost(&self) -> Cost {
                // The contract's own method, which takes precedence over this trait's.
                $arguments::cost(self)
            }
            fn run(self, device: &Cuda) -> OpResult {
                device.$op(self)
            }
        })*
    };
}

calls! {
    AdamW, adamw;
    AttentionForward, attention_forward;
    AttentionBackward, attention_backward;
    EmbeddingForward, embedding_forward;
    EmbeddingBackward, embedding_backward;
    GlobalNorm, global_norm;
    LmHeadLogits, lm_head_logits;
    LmHeadLoss, lm_head_loss;
    LinearForward, linear_forward;
    LinearBackwardInput, linear_backward_input;
    LinearBackwardWeight, linear_backward_weight;
    QkNormRopeForward, qk_norm_rope_forward;
    QkNormRopeBackward, qk_norm_rope_backward;
    RmsNormForward, rmsnorm_forward;
    RmsNormBackward, rmsnorm_backward;
    Sample, sample;
    ScoreMargin, score_margin;
    SwigluForward, swiglu_forward;
    SwigluBackward, swiglu_backward;
}

/// Reads the cost of a call, or makes the call. Rows can do both only through this, so none states its own bytes.
pub struct Caller<'a> {
    device: &'a Cuda,
    cost: Option<Cost>,
}

impl Caller<'_> {
    pub fn call(&mut self, call: impl Call) -> OpResult {
        match &mut self.cost {
            Some(cost) => {
                *cost = call.cost();
                Ok(())
            }
            None => call.run(self.device),
        }
    }
}

/// The least seconds of a timed batch, and the number of batches.
const BATCH_S: f64 = 0.006;
const BATCHES: usize = 11;
/// Calls of a batch that is launched as one graph.
const CALLS_MAX: usize = 4096;
/// The least bytes of the buffers that the copy ceiling is measured with; four L2 caches if that is more.
const COPY_BYTES_MIN: usize = 256 << 20;
/// Copies of arguments on the emulator, which has no cache to fill: enough to check that they rotate.
const EMULATED_COPIES: usize = 2;

pub struct Bench {
    pub device: Cuda,
    pub options: Options,
    report: RefCell<Report>,
    /// The row that is being measured, for errors.
    current: RefCell<(String, &'static str)>,
    seen: RefCell<Vec<&'static str>>,
    start: Instant,
    ok: Cell<bool>,
}

impl Bench {
    /// Measures the ceilings.
    pub fn new(device: Cuda, options: Options, report: Report) -> Result<Self, OpError> {
        let bench = Self {
            device,
            options,
            report: RefCell::new(report),
            current: RefCell::default(),
            seen: RefCell::default(),
            start: Instant::now(),
            ok: Cell::new(true),
        };
        if bench.options.emulated {
            bench.report.borrow_mut().begin(&Backend::name(&bench.device), None);
        } else {
            let copy_bytes_per_s = bench.copy_speed()?;
            let matmul_flops_per_s = 1e9 * bench.device.matmul_gflops()?;
            let ceilings = Ceilings { copy_bytes_per_s, matmul_flops_per_s };
            bench.report.borrow_mut().begin(&Backend::name(&bench.device), Some(ceilings));
        }
        Ok(bench)
    }

    /// Bytes a second that a copy on the device reads and writes together.
    fn copy_speed(&self) -> Result<f64, OpError> {
        let (device, len) = (&self.device, (CACHES * self.device.l2_bytes()).max(COPY_BYTES_MIN) / 4);
        let (from, mut to) = (device.repeated(len, &[0x9E37_79B9u32, 0x7F4A_7C15, 1])?, device.zeros::<u32>(len)?);
        let copy = || {
            let (to, from) = (device.view_mut(&mut to, 0..len), device.view(&from, 0..len));
            device.copy(to, from)
        };
        let best = device.timed_s(4 * BATCHES, copy)?.into_iter().fold(f64::INFINITY, f64::min);
        Ok(8.0 * len as f64 / best)
    }

    /// The row of this name, if it is selected.
    pub fn row<'a>(&'a self, name: &str, shape: &'a Shape) -> Option<Row<'a>> {
        let known = rows::NAMES.iter().find(|known| **known == name);
        let name = *known.unwrap_or_else(|| panic!("{name:?} is missing in rows.rs"));
        self.seen.borrow_mut().push(name);
        *self.current.borrow_mut() = (name.into(), shape.name);
        let wanted = self.options.only.as_ref().is_none_or(|part| name.contains(part.as_str()));
        wanted.then_some(Row { bench: self, name, shape: shape.name, eager: false })
    }

    /// Arguments in copies; see [`Set::fill`].
    pub fn buffers<T>(&self, make: impl Fn(&Set<'_>) -> Result<T, OpError>) -> Result<(usize, T), OpError> {
        let (fewest, l2_bytes) = if self.options.emulated { (EMULATED_COPIES, 0) } else { (1, self.device.l2_bytes()) };
        Set::fill(&self.device, fewest, l2_bytes, make)
    }

    /// Measures rows; a failure is reported as that row's error.
    pub fn attempt(&self, rows: fn(&Self, &Shape) -> OpResult, shape: &Shape) {
        if let Err(error) = rows(self, shape) {
            let (name, shape) = self.current.borrow().clone();
            self.fail(&name, shape, &error.to_string());
        }
    }

    fn fail(&self, name: &str, shape: &str, error: &str) {
        self.ok.set(false);
        self.report.borrow_mut().error(name, shape, error);
    }

    /// Prints the end of the report. Whether all rows were right, and all listed rows were measured.
    pub fn finish(self) -> bool {
        let missing: Vec<_> = rows::NAMES.iter().filter(|name| !self.seen.borrow().contains(name)).collect();
        if !missing.is_empty() {
            println!("listed in rows.rs, but not measured: {missing:?}");
        }
        self.report.borrow_mut().end(self.start.elapsed());
        self.ok.get() && missing.is_empty()
    }
}

/// A row before it is measured.
pub struct Row<'a> {
    bench: &'a Bench,
    name: &'static str,
    shape: &'static str,
    eager: bool,
}

impl<'a> Row<'a> {
    /// Calls are launched one by one: the op uploads from the host, which a graph cannot.
    pub fn eager(self) -> Self {
        Self { eager: true, ..self }
    }

    /// Measures `work`, which makes one call with copy number `copy` of its arguments.
    pub fn measure(
        self,
        sizes: String,
        copies: usize,
        mut work: impl FnMut(&mut Caller<'_>, usize) -> OpResult,
    ) -> Measured<'a> {
        let mut caller = Caller { device: &self.bench.device, cost: Some(Cost::default()) };
        let mut cost = Cost::default();
        let mut measured = || {
            work(&mut caller, 0)?;
            cost = caller.cost.take().unwrap_or_default();
            (0..copies).try_for_each(|copy| work(&mut caller, copy))?;
            self.bench.device.synchronize()?;
            self.times(copies, |copy| work(&mut caller, copy))
        };
        let times = measured();
        Measured { row: self, sizes, cost, times }
    }

    /// Times of one call.
    fn times(&self, copies: usize, mut work: impl FnMut(usize) -> OpResult) -> Result<Times, OpError> {
        let (device, eager, emulated) = (&self.bench.device, self.eager, self.bench.options.emulated);
        let mut batches = |runs: usize, count: usize| {
            let times = device.timed_s(runs, || {
                let mut calls = || (0..count).try_for_each(|call| work(call % copies));
                if eager { calls() } else { device.replayed(calls) }
            })?;
            Ok::<Vec<f64>, OpError>(times.into_iter().map(|seconds| seconds / count as f64).collect())
        };
        if emulated {
            // Launched, captured, and replayed as a graph, as on a device.
            batches(2, copies)?;
            return Ok(Times::default());
        }
        let once = batches(2, copies)?[1].max(1e-7);
        let count = ((BATCH_S / once).ceil() as usize).clamp(1, CALLS_MAX).next_multiple_of(copies);
        // Launched and captured.
        batches(1, count)?;
        let mut seconds = batches(BATCHES, count)?;
        seconds.sort_by(f64::total_cmp);
        Ok(Times { median_s: seconds[BATCHES / 2], min_s: seconds[0], max_s: seconds[BATCHES - 1] })
    }
}

/// A row whose outputs are not checked yet.
#[must_use = "a row is reported when its outputs have been checked"]
pub struct Measured<'a> {
    row: Row<'a>,
    sizes: String,
    cost: Cost,
    times: Result<Times, OpError>,
}

impl Measured<'_> {
    /// Checks all outputs and reports the row.
    pub fn check(self, outputs: &[(&str, &dyn Output)]) {
        let Self { row, sizes, cost, times } = self;
        let checked = times.and_then(|times| {
            for (name, output) in outputs {
                if let Some(fault) = output.fault()? {
                    return Ok(Err(format!("`{name}`: {fault}")));
                }
            }
            Ok(Ok(times))
        });
        outputs.iter().for_each(|(_, output)| output.give_up());
        match checked {
            Ok(Ok(times)) => row.bench.report.borrow_mut().row(row.name, row.shape, &sizes, cost, times),
            Ok(Err(fault)) => row.bench.fail(row.name, row.shape, &fault),
            Err(error) => row.bench.fail(row.name, row.shape, &error.to_string()),
        }
    }
}
