//! Modules and launches: the driver's checks before a kernel runs, and how failures reach the program.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::fixture::{code, context, context_on};

/// See `kernels.cu`.
const PTX: &str = include_str!("kernels.ptx");

fn shape(blocks: u32, threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes }
}

fn kernel(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    context.load_module(Ptx::from_src(PTX)).unwrap().load_function(name).unwrap()
}

fn opened(name: &str) -> (Arc<CudaContext>, Arc<CudaStream>, CudaFunction) {
    let context = context();
    let stream = context.new_stream().unwrap();
    let function = kernel(&context, name);
    (context, stream, function)
}

#[test]
fn a_kernel_runs_on_both_devices() {
    for device in [0, 1] {
        let context = context_on(device);
        let stream = context.new_stream().unwrap();
        let scale = kernel(&context, "scale");
        let host: Vec<f32> = (0..1000).map(|value| value as f32).collect();
        let mut values = stream.clone_htod(&host).unwrap();
        // Safety: arguments as in kernels.cu; the kernel guards its bounds.
        unsafe { stream.launch_builder(&scale).arg(&mut values).arg(&0.5f32).arg(&1000u32).launch(shape(8, 128, 0)) }
            .unwrap();
        let halves: Vec<f32> = host.iter().map(|value| value / 2.0).collect();
        assert_eq!(stream.clone_dtoh(&values).unwrap(), halves);
    }
}

#[test]
fn kernels_of_two_streams_need_an_event_between_them() {
    let (context, first, scale) = opened("scale");
    let second = context.new_stream().unwrap();
    let mut values = first.clone_htod(&[1f32; 32]).unwrap();
    first.synchronize().unwrap();
    let launch = |stream: &Arc<CudaStream>, values: &mut _, factor: f32| {
        // Safety: as above.
        unsafe { stream.launch_builder(&scale).arg(values).arg(&factor).arg(&32u32).launch(shape(1, 32, 0)) }.unwrap();
    };
    launch(&first, &mut values, 3.0);
    assert_eq!(second.clone_dtoh(&values).unwrap(), [1.0; 32], "the second stream did not wait for the first one");
    second.join(&first).unwrap();
    launch(&second, &mut values, 5.0);
    assert_eq!(second.clone_dtoh(&values).unwrap(), [15.0; 32]);
}

#[test]
fn a_captured_launch_keeps_the_arguments_it_was_captured_with() {
    let (_context, stream, scale) = opened("scale");
    let mut values = stream.clone_htod(&[1f32; 4]).unwrap();
    stream.synchronize().unwrap();
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    {
        let factor = 2f32;
        // Safety: as above.
        unsafe { stream.launch_builder(&scale).arg(&mut values).arg(&factor).arg(&4u32).launch(shape(1, 32, 0)) }
            .unwrap();
    }
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    assert_eq!(stream.clone_dtoh(&values).unwrap(), [8.0; 4]);
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Meta {
    factor: u32,
    numbers: [u64; 3],
    out: u64,
}
// Safety: the layout of `Meta` in kernels.cu.
unsafe impl DeviceRepr for Meta {}

#[test]
fn structs_are_passed_by_value_and_their_pointers_checked() {
    let (_context, stream, by_value) = opened("by_value");
    let out = stream.alloc_zeros::<u64>(3).unwrap();
    let address = cudarc::driver::DevicePtr::device_ptr(&out, &stream).0;
    let meta = Meta { factor: 3, numbers: [1, 2, 1 << 40], out: address };
    // Safety: as above.
    unsafe { stream.launch_builder(&by_value).arg(&meta).launch(shape(1, 3, 0)) }.unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [3, 6, 3 << 40]);
    let wrong = Meta { out: 77, ..meta };
    // Safety: refused.
    let refused = unsafe { stream.launch_builder(&by_value).arg(&wrong).launch(shape(1, 3, 0)) };
    assert_eq!(code(refused), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(cuda_emulator::reports().contains("0x4d is not an address"));
}

#[test]
fn global_variables_keep_their_values_between_launches() {
    let (context, stream, _) = opened("count_up");
    let module = context.load_module(Ptx::from_src(PTX)).unwrap();
    let count_up = module.load_function("count_up").unwrap();
    let mut seen = stream.alloc_zeros::<u32>(1).unwrap();
    for expected in 5..8 {
        // Safety: as above.
        unsafe { stream.launch_builder(&count_up).arg(&mut seen).launch(shape(1, 1, 0)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&seen).unwrap(), [expected]);
    }
    let counter = module.get_global("counter", &stream).unwrap();
    assert_eq!(counter.len(), 4);
    assert_eq!(stream.clone_dtoh(&counter).unwrap(), 8u32.to_ne_bytes());
    assert_eq!(code(module.get_global("missing", &stream)), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn impossible_launches_are_refused() {
    let (_context, stream, reverse) = opened("reverse");
    let mut values = stream.clone_htod(&(0..64).collect::<Vec<i32>>()).unwrap();
    let mut launch = |config: LaunchConfig| {
        // Safety: as above; the kernel uses 4 bytes of shared memory per thread.
        unsafe { stream.launch_builder(&reverse).arg(&mut values).launch(config) }
    };
    for bad in [
        shape(0, 32, 0),
        shape(1, 0, 0),
        shape(1, 1025, 0),
        shape(1, 32, 48 * 1024 + 1),
        LaunchConfig { grid_dim: (1, 65_536, 1), ..shape(1, 32, 0) },
        LaunchConfig { block_dim: (1, 1, 65), ..shape(1, 32, 0) },
    ] {
        assert_eq!(code(launch(bad)), CUresult::CUDA_ERROR_INVALID_VALUE, "{bad:?}");
    }
    reverse.set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 163 * 1024).unwrap();
    launch(shape(1, 64, 163 * 1024)).unwrap();
    let backwards: Vec<i32> = (0..64).rev().collect();
    assert_eq!(stream.clone_dtoh(&values).unwrap(), backwards);
    let too_much = reverse.set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 163 * 1024 + 1);
    assert_eq!(code(too_much), CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn attributes_parameters_and_occupancy() {
    let (context, _stream, trap_if) = opened("trap_if");
    assert_eq!(trap_if.max_threads_per_block().unwrap(), 64);
    assert_eq!(trap_if.shared_size_bytes().unwrap(), 0);
    assert!(trap_if.num_regs().unwrap() > 0);
    assert_eq!(trap_if.ptx_version().unwrap(), 80);
    assert_eq!(trap_if.occupancy_max_active_blocks_per_multiprocessor(64, 0, None).unwrap(), 32);
    assert_eq!(trap_if.occupancy_max_active_blocks_per_multiprocessor(64, 40 * 1024, None).unwrap(), 4);
    assert_eq!(trap_if.occupancy_max_active_blocks_per_multiprocessor(65, 0, None).unwrap(), 0);
    extern "C" fn none(_threads: std::ffi::c_int) -> usize {
        0
    }
    let (grid, block) = trap_if.occupancy_max_potential_block_size(none, 0, 0, None).unwrap();
    assert_eq!((grid, block), (32 * 108, 64));
    let scale = kernel(&context, "scale");
    for (index, expected) in [(0, (0, 8)), (1, (8, 4)), (2, (12, 4))] {
        let (mut offset, mut size) = (0, 0);
        // Safety: writes two numbers.
        unsafe { sys::cuFuncGetParamInfo(scale.cu_function(), index, &mut offset, &mut size) }.result().unwrap();
        assert_eq!((offset, size), expected);
    }
    let (mut offset, mut size) = (0, 0);
    let past = unsafe { sys::cuFuncGetParamInfo(scale.cu_function(), 3, &mut offset, &mut size) };
    assert_eq!(past, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn arguments_in_the_wrong_order_or_size_are_refused() {
    let (_context, stream, scale) = opened("scale");
    let values = stream.clone_htod(&[1f32; 4]).unwrap();
    let config = shape(1, 32, 0);
    // Safety: all refused before the kernel runs.
    unsafe {
        // The count, as 8 bytes, instead of the pointer.
        let wrong = stream.launch_builder(&scale).arg(&4u64).arg(&2f32).arg(&4u32).launch(config);
        assert_eq!(code(wrong), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(cuda_emulator::reports().contains("argument 0 of 3 is a pointer in the kernel, but 0x4"));
        // The pointer instead of the count.
        let wrong = stream.launch_builder(&scale).arg(&values).arg(&2f32).arg(&values).launch(config);
        assert_eq!(code(wrong), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(cuda_emulator::reports().contains("argument 2 of 3 has 4 bytes in the kernel, but holds"));
        // No arguments at all: cudarc passes a dangling list.
        let wrong = stream.launch_builder(&scale).launch(config);
        assert_eq!(code(wrong), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(cuda_emulator::reports().contains("argument 0 of 3"));
        // The size of a packed buffer can be checked.
        let mut buffer = [0u8; 12];
        let mut length = buffer.len();
        let mut extra: [*mut std::ffi::c_void; 5] =
            [1 as _, buffer.as_mut_ptr().cast(), 2 as _, (&raw mut length).cast(), std::ptr::null_mut()];
        let nothing = std::ptr::null_mut();
        let stream = stream.cu_stream();
        let wrong = sys::cuLaunchKernel(scale.cu_function(), 1, 1, 1, 32, 1, 1, 0, stream, nothing, extra.as_mut_ptr());
        assert_eq!(wrong, CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(cuda_emulator::reports().contains("12 bytes of arguments, the kernel takes 16"));
    }
}

#[test]
fn a_fault_shows_where_the_host_waits_names_the_line_and_sticks() {
    let (context, stream, fill) = opened("fill");
    let mut values = stream.alloc_zeros::<f32>(100).unwrap();
    // Safety: the emulator checks every access; threads 100 to 127 write past the end.
    unsafe { stream.launch_builder(&fill).arg(&mut values).arg(&1f32).launch(shape(4, 32, 0)) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let report = cuda_emulator::reports();
    for part in ["fill", "kernels.cu:11", "400"] {
        assert!(report.contains(part), "{part} is missing in:\n{report}");
    }
    assert_eq!(code(context.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(stream.clone_dtoh(&values)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(context.load_module(Ptx::from_src(PTX))), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(cuda_emulator::reports(), "", "a sticky fault is reported only once");
}

#[test]
fn a_trap_has_its_own_error() {
    let (_context, stream, trap_if) = opened("trap_if");
    for (flag, outcome) in [(0, Ok(())), (1, Err(CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION))] {
        let flag = stream.clone_htod(&[flag]).unwrap();
        // Safety: as above.
        unsafe { stream.launch_builder(&trap_if).arg(&flag).launch(shape(1, 1, 0)) }.unwrap();
        assert_eq!(stream.synchronize().map_err(|error| error.0), outcome);
    }
}

#[test]
fn memory_that_was_never_written_cannot_be_copied_back() {
    let (_context, stream, fill) = opened("fill");
    // Safety: 32 of 33 elements are written below.
    let mut values = unsafe { stream.alloc::<f32>(33) }.unwrap();
    unsafe { stream.launch_builder(&fill).arg(&mut values).arg(&1f32).launch(shape(1, 32, 0)) }.unwrap();
    assert_eq!(stream.clone_dtoh(&values.slice(0..32)).unwrap(), [1.0; 32]);
    assert_eq!(code(stream.clone_dtoh(&values)), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    let report = cuda_emulator::reports();
    assert!(report.contains("never written"), "{report}");
}

#[test]
fn a_kernel_that_runs_after_the_free_is_caught() {
    let (context, first, scale) = opened("scale");
    let second = context.new_stream().unwrap();
    let mut values = first.clone_htod(&[1f32; 32]).unwrap();
    first.synchronize().unwrap();
    // Safety: the emulator checks every access; the second stream does not wait for the kernel before it frees.
    unsafe { first.launch_builder(&scale).arg(&mut values).arg(&2f32).arg(&32u32).launch(shape(1, 32, 0)) }.unwrap();
    unsafe { cudarc::driver::result::free_async(values.leak(), second.cu_stream()) }.unwrap();
    assert_eq!(code(context.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn module_load_errors_give_the_reason() {
    let context = context();
    let load = |text: &str| code(context.load_module(Ptx::from_src(text)));
    assert_eq!(load("nonsense"), CUresult::CUDA_ERROR_INVALID_PTX);
    let newer = PTX.replace(".target sm_80", ".target sm_90");
    assert_eq!(load(&newer), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    let unknown = PTX.replace("mul.f32 ", "mul.sideways.f32 ");
    assert_eq!(load(&unknown), CUresult::CUDA_ERROR_INVALID_PTX);
    let report = cuda_emulator::reports();
    assert!(report.contains("mul.sideways.f32") && report.contains("kernels.cu:6"), "{report}");
    let module = context.load_module(Ptx::from_src(PTX)).unwrap();
    assert_eq!(code(module.load_function("sclae")), CUresult::CUDA_ERROR_NOT_FOUND);
    assert!(cuda_emulator::reports().contains("no kernel sclae; the module has"));
    let image = Ptx::from_binary(b"\x7fELF and so on".to_vec());
    assert_eq!(code(context.load_module(image)), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
}

#[test]
fn counters_can_be_taken() {
    cuda_emulator::load().unwrap();
    cuda_emulator::configure("stats", "1").unwrap();
    let (_context, stream, scale) = opened("scale");
    cuda_emulator::configure("stats", "").unwrap();
    let mut values = stream.clone_htod(&[1f32; 64]).unwrap();
    // Safety: the kernel changes 64 floats.
    unsafe { stream.launch_builder(&scale).arg(&mut values).arg(&2f32).arg(&64u32).launch(shape(2, 32, 0)) }.unwrap();
    stream.synchronize().unwrap();
    let counters = cuda_emulator::counters();
    let counts = counters.kernel("scale").unwrap();
    assert_eq!((counts.launches, counts.load_bytes, counts.store_sectors), (1, 256, 8));
    assert_eq!(counts.load_instructions, 2, "one of each warp");
    assert!(cuda_emulator::counters().kernel("scale").is_none(), "they were taken");
}

/// The table is printed at exit, so the test runs itself as another process.
#[test]
fn counters_are_printed_at_the_end() {
    let tests = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "launches::a_kernel_runs_on_both_devices"])
        .env("PATARM_EMULATOR_STATS", "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&tests.stderr);
    let line = errors.lines().find(|line| line.starts_with("scale")).unwrap_or_else(|| panic!("{errors}"));
    let counts: Vec<u64> = line.split_whitespace().skip(1).map(|count| count.parse().unwrap()).collect();
    // Two launches over 1000 floats each: a read and a write of 4000 bytes, in 125 sectors.
    assert_eq!((counts[0], &counts[2..6]), (2, &[8000, 250, 8000, 250][..]), "{errors}");
}
