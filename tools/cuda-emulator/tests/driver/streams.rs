//! Streams and events: the order that the program asks for, and no order otherwise.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, CudaStream, result};

use crate::fixture::{code, context, context_on};

/// A producer writes ones on one stream; a consumer on another stream copies them, with or without a wait. Returns what
/// the consumer got.
fn consume(context: &Arc<CudaContext>, wait: bool) -> Vec<u32> {
    let (producer, consumer) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut data = producer.alloc_zeros::<u32>(4).unwrap();
    let mut copy = consumer.alloc_zeros::<u32>(4).unwrap();
    context.synchronize().unwrap();
    producer.memcpy_htod(&[1; 4], &mut data).unwrap();
    if wait {
        consumer.wait(&producer.record_event(None).unwrap()).unwrap();
    }
    consumer.memcpy_dtod(&data, &mut copy).unwrap();
    let got = consumer.clone_dtoh(&copy).unwrap();
    context.synchronize().unwrap();
    got
}

#[test]
fn a_missing_event_wait_shows_as_stale_data() {
    let context = context();
    assert_eq!(consume(&context, true), [1; 4]);
    assert_eq!(consume(&context, false), [0; 4], "the order of submission hid the missing wait");
}

#[test]
fn seeds_try_both_orders_but_never_break_a_wait() {
    let mut seen = BTreeSet::new();
    for seed in 0..16 {
        cuda_emulator::load().unwrap();
        cuda_emulator::configure("seed", &seed.to_string()).unwrap();
        let context = context();
        assert_eq!(consume(&context, true), [1; 4]);
        seen.insert(consume(&context, false));
    }
    assert_eq!(seen, BTreeSet::from([vec![0; 4], vec![1; 4]]));
}

#[test]
fn an_event_covers_only_the_work_before_its_recording() {
    let context = context();
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut data = first.clone_htod(&[1u32]).unwrap();
    let event = first.record_event(None).unwrap();
    first.memcpy_htod(&[2], &mut data).unwrap();
    second.wait(&event).unwrap();
    let mut copy = second.alloc_zeros::<u32>(1).unwrap();
    second.memcpy_dtod(&data, &mut copy).unwrap();
    assert_eq!(second.clone_dtoh(&copy).unwrap(), [1]);
    // Recording the event again affects the next wait, but not the one above.
    event.record(&first).unwrap();
    second.wait(&event).unwrap();
    second.memcpy_dtod(&data, &mut copy).unwrap();
    assert_eq!(second.clone_dtoh(&copy).unwrap(), [2]);
}

#[test]
fn an_event_is_complete_after_its_work_and_polling_makes_progress() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
    let fresh = context.new_event(timed).unwrap();
    assert!(fresh.is_complete(), "an event that was never recorded is complete");
    let start = stream.record_event(timed).unwrap();
    let _data = stream.clone_htod(&[0u8; 1000]).unwrap();
    let end = stream.record_event(timed).unwrap();
    assert!(!end.try_is_complete().unwrap());
    let polls = (0..10).find(|_| end.try_is_complete().unwrap());
    assert!(polls.is_some(), "polling makes no progress");
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    assert_eq!(code(fresh.elapsed_ms(&end)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    let untimed = stream.record_event(None).unwrap();
    assert_eq!(code(start.elapsed_ms(&untimed)), CUresult::CUDA_ERROR_INVALID_HANDLE);
}

static ORDER: AtomicU32 = AtomicU32::new(0);

/// Appends its argument as a decimal digit.
extern "C" fn append(digit: *mut c_void) {
    let digit = digit as usize as u32;
    ORDER.update(Ordering::Relaxed, Ordering::Relaxed, |order| order * 10 + digit);
}

fn call(stream: &CudaStream, digit: usize) {
    unsafe extern "C" fn host(digit: *mut c_void) {
        append(digit);
    }
    // Safety: the function does not use its argument as a pointer.
    unsafe { result::stream::launch_host_function(stream.cu_stream(), host, digit as *mut c_void) }.unwrap();
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
    let context = context();
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    // Safety: a stream of this context, alive until the end of the test.
    let blocking = unsafe { context.wrap_borrowed_stream(blocking) };
    let (legacy, free) = (context.default_stream(), context.new_stream().unwrap());
    ORDER.store(0, Ordering::Relaxed);
    call(&free, 9);
    call(&blocking, 1);
    call(&legacy, 2);
    call(&blocking, 3);
    call(&context.per_thread_stream(), 4);
    // A wait for the last one needs everything except the non-blocking stream.
    blocking.synchronize().unwrap();
    context.per_thread_stream().synchronize().unwrap();
    assert_eq!(ORDER.load(Ordering::Relaxed), 1234);
    free.synchronize().unwrap();
    assert_eq!(ORDER.load(Ordering::Relaxed), 12349);
}

extern "C" fn forbidden(status: *mut c_void) {
    // Safety: the argument is the variable below; the call is refused.
    unsafe { status.cast::<u32>().write(cudarc::driver::sys::cuCtxSynchronize() as u32) };
}

#[test]
fn a_host_function_may_not_call_the_driver() {
    unsafe extern "C" fn host(status: *mut c_void) {
        forbidden(status);
    }
    let context = context();
    let stream = context.new_stream().unwrap();
    let mut status = 0u32;
    // Safety: `status` outlives the wait.
    unsafe { result::stream::launch_host_function(stream.cu_stream(), host, (&raw mut status).cast()) }.unwrap();
    stream.synchronize().unwrap();
    assert_eq!(status, CUresult::CUDA_ERROR_NOT_PERMITTED as u32);
}

#[test]
fn work_of_a_destroyed_stream_still_runs() {
    let context = context();
    let (gone, stays) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut data = stays.alloc_zeros::<u32>(1).unwrap();
    stays.synchronize().unwrap();
    gone.memcpy_htod(&[5], &mut data).unwrap();
    let raw = gone.cu_stream();
    drop(gone);
    context.synchronize().unwrap();
    assert_eq!(stays.clone_dtoh(&data).unwrap(), [5]);
    assert_eq!(code(unsafe { result::stream::synchronize(raw) }), CUresult::CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn cudarc_orders_streams_itself_when_it_tracks_events() {
    cuda_emulator::load().unwrap();
    let context = CudaContext::new_non_primary(0, 0).unwrap();
    for wait in [false, true] {
        assert_eq!(consume(&context, wait), [1; 4]);
    }
}

#[test]
fn a_stream_waits_for_an_event_of_another_context() {
    let (first, second) = (context_on(0), context_on(1));
    let (from, to) = (first.new_stream().unwrap(), second.new_stream().unwrap());
    let mut data = from.alloc_zeros::<u32>(1).unwrap();
    from.memcpy_htod(&[3], &mut data).unwrap();
    let event = from.record_event(None).unwrap();
    to.wait(&event).unwrap();
    assert!(event.is_complete());
}
