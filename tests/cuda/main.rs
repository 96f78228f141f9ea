//! The CUDA device itself, on the emulator or a GPU: opening, memory, launches, and a clear error for every failure. Compiled
//! only if the build had nvcc.
#![cfg(has_cuda)]

mod gpu_only;
mod measure;
mod replays;
mod resources;
mod timing;
mod vectors;

use std::process::Command;
use std::sync::LazyLock;

use half::bf16;
use patarm::cuda::{Argument, Buffer, Cuda, CudaError, Emulation, Grid, kernels};
use patarm::ops::attention::{Attention, AttentionSizes, Run, SegmentTable};
use patarm::tensor::Device;

/// The emulator as a device, or with `PATARM_TEST_DEVICE=gpu` the machine's device 0.
fn cuda() -> &'static Cuda {
    static CUDA: LazyLock<Cuda> = LazyLock::new(|| open(0, Emulation::Allowed).unwrap_or_else(|e| panic!("{e}")));
    &CUDA
}

fn on_a_gpu() -> bool {
    std::env::var("PATARM_TEST_DEVICE").as_deref() == Ok("gpu")
}

fn open(ordinal: usize, emulation: Emulation) -> Result<Cuda, CudaError> {
    if !on_a_gpu() {
        cuda_emulator::load().expect("the emulator's libraries are beside the test programs");
    }
    Cuda::open(ordinal, emulation)
}

#[test]
fn an_emulated_device_must_be_chosen_explicitly() {
    if on_a_gpu() {
        return;
    }
    let message = open(0, Emulation::Refused).unwrap_err().to_string();
    assert!(message.contains("Emulated") && message.contains("explicitly"), "{message}");
    assert!(cuda().name().starts_with("Emulated"), "{:?}", cuda());
}

#[test]
fn a_missing_device_is_an_error_that_names_it() {
    let message = open(99, Emulation::Allowed).unwrap_err().to_string();
    assert!(message.contains("no CUDA device 99"), "{message}");
}

/// A driver is loaded once per process, so this test starts a new process that does not load the emulator.
#[test]
fn a_machine_without_a_driver_says_so() {
    let program = std::env::current_exe().unwrap();
    let child =
        Command::new(program).args(["--exact", "child::opens_without_an_emulator", "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    if !std::path::Path::new("/proc/driver/nvidia").exists() {
        assert!(said.contains("no CUDA driver: libcuda is not installed"), "{said}");
    }
}

mod child {
    use super::*;

    /// The test above runs this separately. Alone it proves nothing, because another test may have loaded the emulator.
    #[test]
    fn opens_without_an_emulator() {
        match Cuda::open(0, Emulation::Allowed) {
            Ok(device) => println!("opened {device:?}"),
            Err(error) => println!("{error}"),
        }
    }
}

#[test]
fn memory_keeps_what_was_written() {
    let device = cuda();
    let mut buffer = device.upload(&[1.0f32, 2.0, 3.0, 4.0, 5.0]).unwrap();
    assert_eq!(device.len(&buffer), 5);
    assert_eq!(device.download(device.view(&buffer, 1..4)).unwrap(), [2.0, 3.0, 4.0]);
    device.write(device.view_mut(&mut buffer, 3..5), &[40.0, 50.0]).unwrap();
    device.clear(device.view_mut(&mut buffer, 0..2)).unwrap();
    assert_eq!(device.download(device.view(&buffer, 0..5)).unwrap(), [0.0, 0.0, 3.0, 40.0, 50.0]);
    let [second, first] = device.view_two(&mut buffer, [3..5, 0..1]);
    device.write(second, &[7.0, 8.0]).unwrap();
    device.write(first, &[9.0]).unwrap();
    assert_eq!(device.download(device.view(&buffer, 0..5)).unwrap(), [9.0, 0.0, 3.0, 7.0, 8.0]);
    assert_eq!(device.download(device.view(&device.zeros::<bf16>(3).unwrap(), 0..3)).unwrap(), [bf16::ZERO; 3]);
    let mut copy = device.zeros::<f32>(3).unwrap();
    device.copy(device.view_mut(&mut copy, 1..3), device.view(&buffer, 2..4)).unwrap();
    assert_eq!(device.download(device.view(&copy, 0..3)).unwrap(), [0.0, 3.0, 7.0]);
    let empty = device.upload::<u32>(&[]).unwrap();
    assert!(device.download(device.view(&empty, 0..0)).unwrap().is_empty());
}

#[test]
fn another_thread_may_use_the_device() {
    let device = cuda().clone();
    let buffer = device.upload(&[5u32; 100]).unwrap();
    let there = std::thread::spawn(move || device.download(device.view(&buffer, 0..100)).unwrap()).join().unwrap();
    assert_eq!(there, [5; 100]);
}

#[test]
#[should_panic(expected = "outside a buffer of 4 elements")]
fn a_view_beyond_the_end_is_a_bug() {
    let buffer = cuda().zeros::<f32>(4).unwrap();
    cuda().view(&buffer, 2..5);
}

#[test]
#[should_panic(expected = "overlap")]
fn two_views_that_overlap_are_a_bug() {
    let mut buffer = cuda().zeros::<f32>(4).unwrap();
    cuda().view_two(&mut buffer, [0..3, 2..4]);
}

#[test]
fn too_much_memory_is_an_error_with_numbers() {
    let Err(error) = cuda().zeros::<f32>(1 << 45) else { panic!("nobody has 128 TiB") };
    let message = error.to_string();
    assert!(message.contains("out of device memory: 140737488355328 more contiguous bytes"), "{message}");
    // The device still works.
    assert_eq!(cuda().download(cuda().view(&cuda().upload(&[3u32]).unwrap(), 0..1)).unwrap(), [3]);
}

/// The bounds of every buffer in the arena are checked: a kernel that is given too large a length does not write into the next
/// buffer.
#[test]
fn a_write_beyond_a_buffer_of_the_arena_is_a_fault() {
    if on_a_gpu() {
        return;
    }
    // After a fault the device is unusable, so this test uses the other device.
    let device = open(1, Emulation::Allowed).unwrap();
    let mut values = device.zeros::<bf16>(64).unwrap();
    let neighbour = device.zeros::<bf16>(64).unwrap();
    let master = device.upload(&[1.0f32; 72]).unwrap();
    let threads = (kernels::LINEAR_PREPARE_THREADS, 1);
    let launch = |values: &mut Buffer<bf16>, len: usize| {
        let values = device.view_mut(values, 0..64).argument();
        let master = device.view(&master, 0..72).argument();
        let grid = Grid { blocks: 1, threads, dynamic_shared_bytes: 0 };
        // Safety: with a length of 64 all accesses are inside; the emulator refuses others.
        unsafe { device.launch(&kernels::LINEAR_PREPARE_BF16, grid, [values, master, Argument::Size(len)]) }.unwrap();
        device.synchronize()
    };
    launch(&mut values, 64).unwrap();
    assert_eq!(device.download(device.view(&values, 0..64)).unwrap(), [bf16::ONE; 64]);
    assert_eq!(device.download(device.view(&neighbour, 0..64)).unwrap(), [bf16::ZERO; 64]);
    launch(&mut values, 72).unwrap_err();
    let said = cuda_emulator::reports();
    assert!(said.contains("just past the end of the buffer of 128 bytes"), "{said}");
}

#[test]
fn a_fetch_returns_the_values_at_its_position_in_the_stream() {
    let device = open(0, Emulation::Allowed).unwrap();
    let mut buffer = device.zeros::<u32>(3000).unwrap();
    let mut fetched = Vec::new();
    for turn in 0..20u32 {
        device.write(device.view_mut(&mut buffer, 0..3000), &[turn; 3000]).unwrap();
        let fetch = device.fetch(device.view(&buffer, 7..7 + 100 * turn as usize)).unwrap();
        // Every third fetch is dropped without waiting, and its memory is reused.
        match turn % 3 {
            0 => drop(fetch),
            _ => fetched.push((turn, fetch)),
        }
    }
    for (turn, fetch) in fetched {
        assert_eq!(fetch.get().unwrap(), vec![turn; 100 * turn as usize]);
    }
}

#[test]
fn writes_larger_than_the_ring_of_page_locked_memory_arrive() {
    let device = open(0, Emulation::Allowed).unwrap();
    // Smaller than a part of the ring, larger than a part, and larger than the whole ring, without waiting in between.
    let sizes = [1, 3, 60_000, 65_536, 65_537, 300_000, 1_200_000];
    let mut buffers: Vec<_> = sizes.iter().map(|len| device.zeros::<u32>(*len).unwrap()).collect();
    let mut kept = device.zeros::<u32>(40 * 60_000).unwrap();
    for turn in 0..40usize {
        for (buffer, len) in buffers.iter_mut().zip(sizes) {
            let values: Vec<u32> = (0..len as u32).map(|i| i * 31 + turn as u32).collect();
            device.write(device.view_mut(buffer, 0..len), &values).unwrap();
        }
        let to = device.view_mut(&mut kept, turn * 60_000..(turn + 1) * 60_000);
        device.copy(to, device.view(&buffers[2], 0..60_000)).unwrap();
    }
    for (buffer, len) in buffers.iter().zip(sizes) {
        let expected: Vec<u32> = (0..len as u32).map(|i| i * 31 + 39).collect();
        assert!(device.download(device.view(buffer, 0..len)).unwrap() == expected, "the write of {len}");
    }
    let all = device.download(device.view(&kept, 0..40 * 60_000)).unwrap();
    let wrong = (0..all.len()).find(|i| all[*i] as usize != i % 60_000 * 31 + i / 60_000);
    assert_eq!(wrong, None, "a later write overwrote the ring before the device had read it");
}

/// Writes the lists of a decode step: 300 sequences of 300 keys have 360,000 bytes of key rows.
#[test]
fn no_write_of_a_decode_step_goes_through_pageable_memory() {
    let device = open(0, Emulation::Allowed).unwrap();
    let mut segments = SegmentTable::default();
    for sequence in 0..300 {
        segments.push(1, [Run { start: 7 * sequence, len: 300 }]);
    }
    let sizes = AttentionSizes { q_heads: 2, kv_heads: 1, head_dim: 32, pool_rows: 2400, scale: 0.2 };
    device.attention_prepare(&segments, &sizes).unwrap();
    assert_eq!(device.pageable_write_count(), 0);
    // Weights of a checkpoint do, and they arrive.
    let len = (64 << 20) / 4 + 1;
    let weights = device.upload(&(0..len as u32).collect::<Vec<_>>()).unwrap();
    assert_eq!(device.pageable_write_count(), 1);
    assert_eq!(device.download(device.view(&weights, len - 2..len)).unwrap(), [len as u32 - 2, len as u32 - 1]);
}

#[test]
fn the_arena_reuses_freed_memory_and_its_table_lists_allocations_by_label() {
    let device = open(0, Emulation::Allowed).unwrap();
    let address_of = |buffer: &Buffer<f32>| format!("{:?}", device.view(buffer, 0..1).argument());
    // Larger than anything that other tests of this device free at the same time.
    let first = device.named("labelled by a test", || device.zeros::<f32>(20 << 20)).unwrap();
    let table = device.memory_table().unwrap();
    let line = table.lines().find(|line| line.starts_with("labelled by a test")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(line.split_whitespace().skip(4).collect::<Vec<_>>(), ["1", "80.0", "MiB", "80.0", "MiB"], "{table}");
    assert!(table.lines().last().unwrap().starts_with("the arena has "), "{table}");
    let address = address_of(&first);
    drop(first);
    assert_eq!(address_of(&device.zeros(20 << 20).unwrap()), address);
}

#[test]
fn every_kernel_of_the_images_has_a_handle() {
    let names: Vec<&str> = kernels::IMAGES.iter().flat_map(|image| image.kernels.iter().copied()).collect();
    let handles = [
        (kernels::RMSNORM_FORWARD_BF16.index, kernels::RMSNORM_FORWARD_BF16.name),
        (kernels::RMSNORM_BACKWARD_WEIGHT_F32.index, kernels::RMSNORM_BACKWARD_WEIGHT_F32.name),
        (kernels::SCORE_MARGIN_F32.index, kernels::SCORE_MARGIN_F32.name),
    ];
    for (index, name) in handles {
        assert_eq!(names[index], name);
    }
    assert_eq!(kernels::RMSNORM_BACKWARD_WEIGHT_F32.sizes, [8, 8, 4, 4]);
}

#[test]
#[should_panic(expected = "rmsnorm_backward_weight_f32: argument 1 has 4 bytes, the kernel takes 8")]
fn an_argument_of_the_wrong_size_is_a_bug() {
    let grid = Grid { blocks: 1, threads: (32, 8), dynamic_shared_bytes: 0 };
    let arguments = [Argument::NULL, Argument::I32(0), Argument::I32(0), Argument::I32(0)];
    // Safety: nothing is launched.
    let _ = unsafe { cuda().launch(&kernels::RMSNORM_BACKWARD_WEIGHT_F32, grid, arguments) };
}
