//! Device memory, page-locked memory, copies and fills.

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUresult};

use crate::fixture::{code, context, context_on};

#[test]
fn data_survives_copies_to_the_device_and_back() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let mut there = stream.clone_htod(&[1.5f32, -2.0, 3.25]).unwrap();
    assert_eq!(stream.clone_dtoh(&there).unwrap(), [1.5, -2.0, 3.25]);
    let copy = stream.clone_dtod(&there).unwrap();
    stream.memset_zeros(&mut there.slice_mut(1..2)).unwrap();
    assert_eq!(stream.clone_dtoh(&there).unwrap(), [1.5, 0.0, 3.25]);
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), [1.5, -2.0, 3.25]);
    assert_eq!(stream.clone_dtoh(&stream.null::<f32>().unwrap()).unwrap(), []);
}

#[test]
fn pageable_sources_are_read_at_once_and_page_locked_ones_when_the_copy_runs() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let mut pageable = vec![1u32, 2];
    let there = stream.clone_htod(&pageable).unwrap();
    pageable.fill(9);
    assert_eq!(stream.clone_dtoh(&there).unwrap(), [1, 2]);

    // Safety: written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(2) }.unwrap();
    assert_ne!(pinned.as_slice().unwrap(), [0, 0], "fresh page-locked memory does not look like valid data");
    pinned.as_mut_slice().unwrap().copy_from_slice(&[3, 4]);
    let there = stream.clone_htod(&pinned).unwrap();
    stream.synchronize().unwrap();
    pinned.as_mut_slice().unwrap().fill(9);
    assert_eq!(stream.clone_dtoh(&there).unwrap(), [3, 4]);
}

#[test]
fn cudarc_without_event_tracking_does_not_wait_for_page_locked_memory() {
    let context = context();
    let stream = context.new_stream().unwrap();
    // Safety: written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(1) }.unwrap();
    pinned.as_mut_slice().unwrap()[0] = 3;
    let there = stream.clone_htod(&pinned).unwrap();
    // cudarc 0.19.10 records the slice's event only while it tracks events, so this does not wait for the copy above.
    pinned.as_mut_slice().unwrap()[0] = 9;
    assert_eq!(stream.clone_dtoh(&there).unwrap(), [9], "the copy ran before the host waited");
    // Safety: the context has one stream, and tracking stays on from here.
    unsafe { context.enable_event_tracking() };
    let again = stream.clone_htod(&pinned).unwrap();
    pinned.as_mut_slice().unwrap()[0] = 5;
    assert_eq!(stream.clone_dtoh(&again).unwrap(), [9]);
}

#[test]
fn page_locked_memory_is_not_written_before_a_wait() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let there = stream.clone_htod(&[7u8; 4]).unwrap();
    // Safety: plain calls of the driver on memory that lives until it is freed below.
    unsafe {
        let pinned = result::malloc_host(4, 0).unwrap().cast::<u8>();
        let target = std::slice::from_raw_parts_mut(pinned, 4);
        let (address, _guard) = cudarc::driver::DevicePtr::device_ptr(&there, &stream);
        result::memcpy_dtoh_async(target, address, stream.cu_stream()).unwrap();
        assert_ne!(pinned.read_volatile(), 7, "the host did not wait");
        stream.synchronize().unwrap();
        assert_eq!(pinned.read_volatile(), 7);
        result::free_host(pinned.cast()).unwrap();
        assert_eq!(code(result::free_host(pinned.cast())), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn memory_runs_out_and_is_available_again_after_a_free() {
    cuda_emulator::load().unwrap();
    cuda_emulator::configure("memory", "1048576").unwrap();
    let context = context();
    let stream = context.new_stream().unwrap();
    assert_eq!(context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
    let big = stream.alloc_zeros::<u8>(700_000).unwrap();
    assert_eq!(code(stream.alloc_zeros::<u8>(700_000)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert!(cuda_emulator::reports().contains("700000 bytes requested"));
    assert!(context.mem_get_info().unwrap().0 <= (1 << 20) - 700_000);
    // The free is pending in the stream; the next allocation runs it.
    drop(big);
    let again = stream.alloc_zeros::<u8>(700_000).unwrap();
    assert_eq!(stream.clone_dtoh(&again).unwrap(), vec![0; 700_000]);
    context.synchronize().unwrap();
}

#[test]
fn leaks_are_reported_when_the_context_ends() {
    let context = context();
    let stream = context.new_stream().unwrap();
    // Safety: leaked on purpose.
    unsafe { result::malloc_async(stream.cu_stream(), 12_345) }.unwrap();
    let _freed = stream.alloc_zeros::<u8>(54_321).unwrap();
    drop((_freed, stream));
    drop(context);
    let reports = cuda_emulator::reports();
    assert!(reports.contains("1 allocations were never freed") && reports.contains("12345"), "{reports}");
}

#[test]
fn bad_frees_are_refused_with_the_reason() {
    let context = context();
    let stream = context.new_stream().unwrap();
    // Safety: the emulator checks addresses, which is what this test tests.
    unsafe {
        let address = result::malloc_sync(256).unwrap();
        assert_eq!(code(result::free_sync(address + 16)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(cuda_emulator::reports().contains("16 bytes inside the allocation of 256 bytes"));
        result::free_async(address, stream.cu_stream()).unwrap();
        assert_eq!(code(result::free_async(address, stream.cu_stream())), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(cuda_emulator::reports().contains("freed a second time"));
        stream.synchronize().unwrap();
        assert_eq!(code(result::free_sync(address)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::malloc_sync(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn fills_and_copies_of_rows() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let words = stream.alloc_zeros::<u32>(6).unwrap();
    let (address, _guard) = cudarc::driver::DevicePtr::device_ptr(&words, &stream);
    // Safety: addresses and sizes are inside the buffer above.
    unsafe {
        sys::cuMemsetD32Async(address, 0x01020304, 4, stream.cu_stream()).result().unwrap();
        sys::cuMemsetD16Async(address + 16, 0x0506, 2, stream.cu_stream()).result().unwrap();
        assert_eq!(sys::cuMemsetD32Async(address + 2, 0, 1, stream.cu_stream()), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(stream.clone_dtoh(&words).unwrap(), [0x01020304, 0x01020304, 0x01020304, 0x01020304, 0x05060506, 0]);
        // The middle two bytes of each of three rows of 8 bytes.
        let mut host = [0u8; 6];
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 3,
            srcY: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcHost: std::ptr::null(),
            srcDevice: address,
            srcArray: std::ptr::null_mut(),
            srcPitch: 8,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
            dstHost: host.as_mut_ptr().cast(),
            dstDevice: 0,
            dstArray: std::ptr::null_mut(),
            dstPitch: 0,
            WidthInBytes: 2,
            Height: 3,
        };
        sys::cuMemcpy2DAsync_v2(&copy, stream.cu_stream()).result().unwrap();
        assert_eq!(host, [1, 4, 1, 4, 5, 0]);
    }
}

#[test]
fn pointer_attributes() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let words = stream.alloc_zeros::<u32>(6).unwrap();
    let (address, _guard) = cudarc::driver::DevicePtr::device_ptr(&words, &stream);
    let (mut start, mut size, mut kind) = (0u64, 0usize, 0u32);
    // Safety: each result has the type of its attribute.
    unsafe {
        sys::cuMemGetAddressRange_v2(&mut start, &mut size, address + 5).result().unwrap();
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
        sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, address).result().unwrap();
        assert_eq!(
            sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, 0x1000),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
    assert_eq!((start, size, kind), (address, 24, 2));
}

#[test]
fn a_copy_past_the_end_is_a_fault_that_sticks_only_to_its_context() {
    let (broken, sound) = (context(), context());
    let stream = broken.new_stream().unwrap();
    let words = stream.clone_htod(&[1u32; 8]).unwrap();
    let address = cudarc::driver::DevicePtr::device_ptr(&words, &stream).0;
    let mut host = [0u32; 9];
    // Safety: the emulator refuses the access, which is what this test tests.
    let fault = unsafe { result::memcpy_dtoh_async(&mut host, address, stream.cu_stream()) };
    assert_eq!(code(fault), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(stream.alloc_zeros::<u8>(1)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(broken.mem_get_info()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let stream = sound.new_stream().unwrap();
    assert_eq!(stream.clone_dtoh(&stream.clone_htod(&[1u8]).unwrap()).unwrap(), [1]);
}

#[test]
fn contexts_copy_to_each_other() {
    let (first, second) = (context_on(0), context_on(1));
    let (from, to) = (first.new_stream().unwrap(), second.new_stream().unwrap());
    let source = from.clone_htod(&[1u16, 2, 3]).unwrap();
    let mut target = to.alloc_zeros::<u16>(3).unwrap();
    to.memcpy_dtod(&source, &mut target).unwrap();
    assert_eq!(to.clone_dtoh(&target).unwrap(), [1, 2, 3]);
}

#[test]
fn buffers_of_a_sub_allocator_are_checked_like_allocations() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let watch = cuda_emulator::arena::Watch::find().unwrap();
    let handle = stream.cu_stream().cast();
    // Safety: freed below.
    let arena = unsafe { result::malloc_sync(4096) }.unwrap();
    // Safety: the emulator checks addresses; the host's bytes outlive the calls.
    let (write, read) = unsafe {
        let write = |at: u64, bytes: &[u8]| result::memcpy_htod_async(arena + at, bytes, stream.cu_stream());
        let read = |at: u64, bytes: &mut [u8]| result::memcpy_dtoh_async(bytes, arena + at, stream.cu_stream());
        (write, read)
    };
    assert!(watch.allocate_buffer(arena, 16, handle) && watch.allocate_buffer(arena + 16, 16, handle));
    write(0, &[1; 16]).unwrap();
    assert!(
        watch.free_buffer(arena, handle) && watch.allocate_buffer(arena, 8, handle),
        "both take effect in stream order"
    );
    write(0, &[2; 8]).unwrap();
    write(16, &[3; 16]).unwrap();
    let mut back = [0; 8];
    read(0, &mut back).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(back, [2; 8]);
    assert!(watch.free_buffer(arena, handle) && watch.free_buffer(arena + 16, handle));
    stream.synchronize().unwrap();
    // Safety: nothing uses it any more.
    unsafe { result::free_sync(arena) }.unwrap();
    // Safety: as above.
    let arena = unsafe { result::malloc_sync(4096) }.unwrap();
    assert!(watch.allocate_buffer(arena, 16, handle));
    // Safety: the emulator refuses it.
    unsafe { result::memset_d8_async(arena + 8, 1, 9, stream.cu_stream()) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(cuda_emulator::reports().contains("buffer of 16 bytes"));
}
