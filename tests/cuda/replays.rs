//! Replays: the same commands run, whether they are sent, captured or launched as a graph.

use half::bf16;
use patarm::cuda::{Argument, Buffer, Cuda, Emulation, Grid, ReplayCounts, kernels};
use patarm::tensor::replay_size;
use patarm::tensor::{Device, DeviceError};

use super::open;

const LEN: usize = 1000;

/// Rounds `master` into `out`.
fn round(device: &Cuda, out: &mut Buffer<bf16>, master: &Buffer<f32>) -> Result<(), DeviceError> {
    let threads = (kernels::LINEAR_PREPARE_THREADS, 1);
    let grid = Grid { blocks: LEN.div_ceil(8 * threads.0 as usize), threads, dynamic_shared_bytes: 0 };
    let (out, master) = (device.view_mut(out, 0..LEN).argument(), device.view(master, 0..LEN).argument());
    // Safety: both hold LEN elements.
    unsafe { device.launch(&kernels::LINEAR_PREPARE_BF16, grid, [out, master, Argument::Size(LEN)]) }?;
    Ok(())
}

/// Rounds through two scratch buffers, of which the second reuses the first one's memory, and clears the last element.
fn work(device: &Cuda, out: &mut Buffer<bf16>, master: &Buffer<f32>) -> Result<(), DeviceError> {
    let mut unused = device.zeros::<bf16>(LEN)?;
    round(device, &mut unused, master)?;
    drop(unused);
    let mut scratch = device.zeros::<bf16>(LEN)?;
    round(device, &mut scratch, master)?;
    device.copy(device.view_mut(out, 0..LEN), device.view(&scratch, 0..LEN))?;
    device.clear(device.view_mut(out, LEN - 1..LEN))
}

fn expected(master: &[f32]) -> Vec<bf16> {
    let mut rounded: Vec<bf16> = master.iter().map(|value| bf16::from_f32(*value)).collect();
    rounded[LEN - 1] = bf16::ZERO;
    rounded
}

#[test]
fn replays_use_the_current_contents_of_memory() {
    let device = open(0, Emulation::Allowed).unwrap();
    let (mut out, mut second) = (device.zeros::<bf16>(LEN).unwrap(), device.zeros::<bf16>(LEN).unwrap());
    let mut master = device.zeros::<f32>(LEN).unwrap();
    let counts = |sent, captured, launched| ReplayCounts { sent, captured, launched };
    for turn in 0..5 {
        let values: Vec<f32> = (0..LEN).map(|i| (i * (turn + 3)) as f32 / 7.0).collect();
        device.write(device.view_mut(&mut master, 0..LEN), &values).unwrap();
        device.replayed(|| work(&device, &mut out, &master)).unwrap();
        assert_eq!(device.download(device.view(&out, 0..LEN)).unwrap(), expected(&values), "turn {turn}");
        assert_eq!(device.replay_counts(), counts(1, u64::from(turn > 0), turn as u64));
    }
    // Other addresses are other commands; both recordings are cached.
    for _ in 0..2 {
        device.replayed(|| work(&device, &mut second, &master)).unwrap();
        device.replayed(|| work(&device, &mut out, &master)).unwrap();
    }
    assert_eq!(device.replay_counts(), counts(2, 2, 7));
    let [first, second] = [&out, &second].map(|buffer| device.download(device.view(buffer, 0..LEN)).unwrap());
    assert_eq!(first, second);
}

#[test]
fn memory_that_replayed_work_frees_is_free_again() {
    let device = open(0, Emulation::Allowed).unwrap();
    let (mut out, master) = (device.zeros::<bf16>(LEN).unwrap(), device.zeros::<f32>(LEN).unwrap());
    let arena = || device.memory_table().unwrap().lines().last().unwrap().to_owned();
    let before = arena();
    device.replayed(|| work(&device, &mut out, &master)).unwrap();
    assert_eq!(arena(), before);
}

#[test]
fn the_commands_before_an_error_are_executed() {
    let device = open(0, Emulation::Allowed).unwrap();
    let (mut out, master) = (device.zeros::<bf16>(LEN).unwrap(), device.upload(&[3.0f32; LEN]).unwrap());
    let failed = device.replayed(|| {
        work(&device, &mut out, &master)?;
        Err(DeviceError("on purpose".into()))
    });
    assert_eq!(failed.unwrap_err().0, "on purpose");
    assert_eq!(device.download(device.view(&out, 0..LEN)).unwrap(), expected(&[3.0; LEN]));
    assert_eq!(device.replay_counts(), ReplayCounts::default());
}

#[test]
fn replayed_work_may_not_touch_the_host() {
    let device = open(0, Emulation::Allowed).unwrap();
    let mut buffer = device.zeros::<f32>(4).unwrap();
    for write in [true, false] {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            device.replayed(|| match write {
                true => device.write(device.view_mut(&mut buffer, 0..4), &[1.0; 4]),
                false => device.download(device.view(&buffer, 0..4)).map(|_| ()),
            })
        }));
        let said = *caught.unwrap_err().downcast::<&str>().unwrap();
        assert!(said.starts_with("replayed work cannot"), "{said}");
    }
    // The device still works.
    assert_eq!(device.download(device.view(&buffer, 0..4)).unwrap(), [0.0; 4]);
}

#[test]
fn all_sizes_round_up_to_few() {
    let mut before = 0;
    for n in 0..5000 {
        let size = replay_size(n);
        assert!(n <= size && size <= n + n / 4 && size >= before, "{n}: {size}");
        assert_eq!(replay_size(size), size);
        before = size;
    }
    let sizes: std::collections::BTreeSet<usize> = (1..=256).map(replay_size).collect();
    assert_eq!(sizes.len(), 8 + 4 * 5, "four per doubling");
}
