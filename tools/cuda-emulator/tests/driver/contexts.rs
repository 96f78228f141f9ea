//! Devices and contexts: the queries of cudarc, and the errors for bad handles.

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUlimit, CUresult};
use cudarc::driver::{CudaContext, Profiler, result};

use crate::fixture::{code, context, context_on, load};

#[test]
fn two_devices_are_named_emulated() {
    load();
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    for (device, capability, shared) in [(0, (8, 0), 163 << 10), (1, (9, 0), 227 << 10)] {
        let context = context_on(device);
        assert!(context.name().unwrap().starts_with("Emulated"), "{:?}", context.name());
        assert_eq!(context.compute_capability().unwrap(), capability);
        assert_eq!(context.ordinal(), device);
        assert_eq!(
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN).unwrap(),
            shared
        );
        assert_eq!(context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE).unwrap(), 32);
        assert!(context.has_async_alloc());
        assert!(context.uuid().is_ok() && context.total_mem().unwrap() > 0);
    }
    assert_eq!(code(CudaContext::new(2)), CUresult::CUDA_ERROR_INVALID_DEVICE);
}

#[test]
fn every_attribute_that_cudarc_names_has_an_answer() {
    let context = context();
    for number in 1..Attribute::CU_DEVICE_ATTRIBUTE_MAX as i32 {
        let mut value = -1;
        // Safety: the call writes one integer; the attribute is passed as the integer that it is in C.
        let status = unsafe {
            let attribute = std::mem::transmute::<u32, Attribute>(number as u32);
            sys::cuDeviceGetAttribute(&mut value, attribute, context.cu_device())
        };
        assert_eq!(status, CUresult::CUDA_SUCCESS, "attribute {number}");
        assert!(value >= 0, "attribute {number}: {value}");
    }
}

#[test]
fn the_primary_context_is_shared_and_lives_as_long_as_its_holders() {
    load();
    let (first, second) = (CudaContext::new(1).unwrap(), CudaContext::new(1).unwrap());
    assert_eq!(first.cu_ctx(), second.cu_ctx());
    let stream = first.default_stream();
    let data = stream.clone_htod(&[5u8]).unwrap();
    drop(second);
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [5]);
}

#[test]
fn a_destroyed_context_is_recognised() {
    let context = context();
    let raw = context.cu_ctx();
    drop(context);
    assert_eq!(code(unsafe { result::ctx::set_current(raw) }), CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
}

#[test]
fn limits_flags_and_the_profiler_work() {
    let context = context();
    context.set_limit(CUlimit::CU_LIMIT_STACK_SIZE, 4096).unwrap();
    assert_eq!(context.get_limit(CUlimit::CU_LIMIT_STACK_SIZE).unwrap(), 4096);
    assert_eq!(code(context.get_limit(CUlimit::CU_LIMIT_SHMEM_SIZE)), CUresult::CUDA_ERROR_UNSUPPORTED_LIMIT);
    context.set_blocking_synchronize().unwrap();
    context.set_cache_config(sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1).unwrap();
    drop(Profiler::new().unwrap());
}

#[test]
fn null_and_made_up_handles_are_refused_by_every_kind_of_call() {
    let _context = context();
    let wild = 0xdead_beef_usize;
    // Safety: the emulator checks handles before it uses them, which is what this test tests.
    unsafe {
        for handle in [std::ptr::null_mut(), wild as _] {
            assert_eq!(code(result::event::synchronize(handle)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        assert_eq!(code(result::stream::synchronize(wild as _)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(code(result::graph::launch(wild as _, std::ptr::null_mut())), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(code(result::module::unload(wild as _)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(code(result::module::load_data(std::ptr::null())), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuStreamCreate(std::ptr::null_mut(), 0), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(
            sys::cuMemGetInfo_v2(std::ptr::null_mut(), std::ptr::null_mut()),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
    assert!(cuda_emulator::reports().contains("0xdeadbeef is not a handle of a Stream"));
}

#[test]
fn a_missing_function_refuses_by_name_instead_of_panicking_in_cudarc() {
    let _context = context();
    let status = unsafe { sys::cuArrayDestroy(std::ptr::null_mut()) };
    assert_eq!(status, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert!(cuda_emulator::reports().contains("cuArrayDestroy: the emulator does not have this function"));
}

#[test]
fn errors_have_names_and_descriptions() {
    load();
    let error = cudarc::driver::DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(error.error_name().unwrap().to_str().unwrap(), "CUDA_ERROR_ILLEGAL_ADDRESS");
    assert!(error.error_string().unwrap().to_str().unwrap().contains("memory"));
}
