//! Profiles: every command is counted once, in its phase, and nothing is recorded outside a profile.

use half::bf16;
use patarm::cuda::{Argument, Buffer, Cuda, Emulation, Grid, Matmul, Operand, ReplayCounts, kernels};
use patarm::tensor::{Device, DeviceError, Profile, ProfileDetail};

use super::open;

const LEN: usize = 1000;

struct Buffers {
    out: Buffer<bf16>,
    master: Buffer<f32>,
    sums: Buffer<f32>,
}

fn buffers(device: &Cuda) -> Buffers {
    let master: Vec<f32> = (0..LEN).map(|i| i as f32 / 7.0).collect();
    Buffers {
        out: device.zeros(LEN).unwrap(),
        master: device.upload(&master).unwrap(),
        sums: device.zeros(4 * 6).unwrap(),
    }
}

/// Rounds `master` into `out`: one kernel.
fn round(device: &Cuda, out: &mut Buffer<bf16>, master: &Buffer<f32>) -> Result<(), DeviceError> {
    let threads = (kernels::LINEAR_PREPARE_THREADS, 1);
    let grid = Grid { blocks: LEN.div_ceil(8 * threads.0 as usize), threads, dynamic_shared_bytes: 0 };
    let (out, master) = (device.view_mut(out, 0..LEN).argument(), device.view(master, 0..LEN).argument());
    // Safety: both hold LEN elements.
    unsafe { device.launch(&kernels::LINEAR_PREPARE_BF16, grid, [out, master, Argument::Size(LEN)]) }?;
    Ok(())
}

/// A step of three layers: each has a kernel, and inside `mlp` a matmul, a copy and a clear. Returns the buffers' contents.
fn step(device: &Cuda, buffers: &mut Buffers) -> (Vec<bf16>, Vec<f32>) {
    let Buffers { out, master, sums } = buffers;
    let mut scratch = device.zeros::<bf16>(LEN).unwrap();
    for layer in 0..3 {
        device.range(
            || format!("layer {layer} block, {LEN} values"),
            || {
                round(device, &mut scratch, master).unwrap();
                let mlp = || {
                    // [4, 5] · [5, 6]
                    let (a, b) = (device.view(&scratch, 0..20), device.view(&scratch, 20..50));
                    let (a, b) = (Operand::plain(a, 5), Operand::plain(b, 6));
                    let to = device.view_mut(sums, 0..24);
                    device.matmul(Matmul { out: to, a, b, m: 4, n: 6, k: 5, accumulate: layer > 0 }).unwrap();
                    device.copy(device.view_mut(out, 0..LEN), device.view(&scratch, 0..LEN)).unwrap();
                    device.clear(device.view_mut(out, LEN - 1..LEN)).unwrap();
                };
                device.range(|| "mlp".into(), mlp);
            },
        );
    }
    let fetched = device.fetch(device.view(sums, 0..24)).unwrap();
    let read = device.download(device.view(out, 0..LEN)).unwrap();
    (read, fetched.get().unwrap())
}

fn profiled<R>(device: &Cuda, detail: ProfileDetail, work: impl FnOnce() -> R) -> (R, Profile) {
    let (result, profile) = device.profiled(detail, work).unwrap();
    (result, profile.expect("a CUDA device has one"))
}

/// (phase, op, calls, bytes, flops), sorted.
type Row<'a> = (&'a str, &'a str, u64, Option<u64>, Option<u64>);

fn rows(profile: &Profile) -> Vec<Row<'_>> {
    let row =
        |op: &patarm::tensor::OpTime| (profile.phases[op.phase].path.as_str(), op.op, op.calls, op.bytes, op.flops);
    let mut rows: Vec<_> = profile.ops.iter().map(row).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn every_command_is_counted_once_in_its_phase_and_times_add_up() {
    let device = open(0, Emulation::Allowed).unwrap();
    let mut buffers = buffers(&device);
    let (_, profile) = profiled(&device, ProfileDetail::Commands, || step(&device, &mut buffers));
    // bf16 operands, f32 result; two of the three matmuls also read the output.
    let (matmul, flops) = (3 * (20 + 30) * 2 + (1 + 2 + 2) * 24 * 4, 3 * 2 * 4 * 5 * 6);
    assert_eq!(
        rows(&profile),
        [
            ("", "clear", 1, Some(2000), None),
            ("", "copy to the host", 1, Some(96), None),
            ("", "copy to the host, pageable", 1, Some(2000), None),
            ("block", "linear_prepare_bf16", 3, None, None),
            ("block/mlp", "clear", 3, Some(6), None),
            ("block/mlp", "copy on the device", 3, Some(12_000), None),
            ("block/mlp", "matmul", 3, Some(matmul), Some(flops)),
        ]
    );
    let phases: Vec<_> = profile.phases.iter().map(|phase| (phase.path.as_str(), phase.calls)).collect();
    assert_eq!(phases, [("", 1), ("block", 3), ("block/mlp", 3)]);
    // A phase's time is that of its own commands and of inner phases, and all of it fits between the first and last event.
    let own = |phase: usize| profile.ops.iter().filter(|op| op.phase == phase).map(|op| op.device_ms).sum::<f64>();
    let within = |phase: usize| profile.phase_device_ms(phase);
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.max(b);
    assert!(close(within(1), own(1) + within(2)) && close(within(0), own(0) + within(1)), "{profile:?}");
    assert!(close(within(0), profile.device_ms()));
    assert!(profile.ops.iter().all(|op| op.device_ms > 0.0), "{profile:?}");
    // The events' milliseconds are f32.
    assert!(profile.device_ms() <= profile.span_ms * 1.001, "{profile:?}");
    let [whole, block, mlp] = [0, 1, 2].map(|index| profile.phases[index].host);
    assert!(whole >= block && block >= mlp && !mlp.is_zero(), "{profile:?}");
}

#[test]
fn results_are_bit_equal_with_and_without_a_profile() {
    let device = open(0, Emulation::Allowed).unwrap();
    let plain = step(&device, &mut buffers(&device));
    for detail in [ProfileDetail::Phases, ProfileDetail::Commands] {
        let mut buffers = buffers(&device);
        let (result, profile) = profiled(&device, detail, || step(&device, &mut buffers));
        assert!(result == plain, "{detail:?}");
        assert_eq!(profile.phases.len(), 3);
        assert_eq!(profile.ops.is_empty(), detail == ProfileDetail::Phases, "{profile:?}");
    }
    assert!(step(&device, &mut buffers(&device)) == plain);
}

#[test]
fn nothing_is_recorded_before_and_after_a_profile() {
    let device = open(0, Emulation::Allowed).unwrap();
    let mut buffers = buffers(&device);
    step(&device, &mut buffers);
    let ((), profile) = profiled(&device, ProfileDetail::Commands, || ());
    step(&device, &mut buffers);
    assert_eq!((profile.ops.len(), profile.phases.len()), (0, 1), "{profile:?}");
    // A step that panics ends its profile.
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        device.profiled(ProfileDetail::Commands, || -> () { panic!("on purpose") })
    }));
    assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "on purpose");
    let (_, profile) = profiled(&device, ProfileDetail::Commands, || step(&device, &mut buffers));
    assert_eq!(profile.ops.iter().map(|op| op.calls).sum::<u64>(), 15);
}

#[test]
fn more_commands_than_can_be_pending_are_all_counted() {
    let device = open(0, Emulation::Allowed).unwrap();
    let mut buffers = buffers(&device);
    let many = || (0..1300).try_for_each(|_| round(&device, &mut buffers.out, &buffers.master));
    let (done, profile) = profiled(&device, ProfileDetail::Commands, many);
    done.unwrap();
    assert_eq!(rows(&profile), [("", "linear_prepare_bf16", 1300, None, None)]);
}

#[test]
fn replayed_work_is_sent_kernel_by_kernel_while_commands_are_measured() {
    let device = open(0, Emulation::Allowed).unwrap();
    let Buffers { mut out, master, .. } = buffers(&device);
    let mut decode = || {
        device.replayed(|| device.range(|| "layer 0 attention".into(), || round(&device, &mut out, &master))).unwrap();
    };
    decode();
    decode();
    let counts = |launched| ReplayCounts { sent: 1, captured: 1, launched };
    assert_eq!(device.replay_counts(), counts(1));
    let ((), profile) = profiled(&device, ProfileDetail::Commands, &mut decode);
    assert_eq!(rows(&profile), [("attention", "linear_prepare_bf16", 1, None, None)]);
    assert_eq!(device.replay_counts(), counts(1), "nothing was replayed while commands were measured");
    // Measuring only host times does not change the commands.
    profiled(&device, ProfileDetail::Phases, &mut decode);
    decode();
    assert_eq!(device.replay_counts(), counts(3));
}

#[test]
fn the_work_of_another_thread_is_counted_outside_the_phases_of_this_one() {
    let device = open(0, Emulation::Allowed).unwrap();
    let Buffers { mut out, master, .. } = buffers(&device);
    let (_, profile) = profiled(&device, ProfileDetail::Commands, || {
        device.range(
            || "here".into(),
            || std::thread::scope(|scope| scope.spawn(|| round(&device, &mut out, &master)).join().unwrap().unwrap()),
        )
    });
    assert_eq!(rows(&profile), [("", "linear_prepare_bf16", 1, None, None)]);
}
