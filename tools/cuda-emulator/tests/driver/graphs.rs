//! Capture and replay, and what a capture forbids.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraphInstantiate_flags as Flags, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, CudaStream, result};

use crate::fixture::{code, context};

const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD_LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;

fn streams() -> (Arc<CudaContext>, Arc<CudaStream>, Arc<CudaStream>) {
    let context = context();
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    (context, first, second)
}

/// Ends a capture that must fail.
fn failed_end(stream: &Arc<CudaStream>) -> CUresult {
    code(stream.end_capture(Flags(0)).map(|graph| graph.is_some()))
}

#[test]
fn a_graph_replays_its_work_and_capturing_runs_nothing() {
    let (_context, stream, _) = streams();
    for flags in [Flags(0), Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH] {
        let mut data = stream.clone_htod(&[1u32; 4]).unwrap();
        stream.synchronize().unwrap();
        stream.begin_capture(THREAD_LOCAL).unwrap();
        stream.memset_zeros(&mut data).unwrap();
        let graph = stream.end_capture(flags).unwrap().unwrap();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [1; 4], "capturing ran the work");
        graph.upload().unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [0; 4]);
        stream.memcpy_htod(&[2u32; 4], &mut data).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [0; 4]);
    }
}

#[test]
fn every_replay_reads_page_locked_memory_again() {
    let (context, stream, _) = streams();
    // Safety: written before each replay.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(1) }.unwrap();
    let mut data = stream.alloc_zeros::<u32>(1).unwrap();
    let address = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut data, &stream).0;
    let raw = pinned.as_mut_ptr().unwrap();
    stream.begin_capture(GLOBAL).unwrap();
    // Safety: both live until the end of the test.
    unsafe { result::memcpy_htod_async(address, std::slice::from_raw_parts(raw, 1), stream.cu_stream()) }.unwrap();
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    for value in [4, 5] {
        // Safety: nothing is pending.
        unsafe { raw.write(value) };
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [value]);
    }
}

#[test]
fn a_capture_follows_events_to_other_streams_and_back() {
    for seed in ["", "1", "2", "3"] {
        cuda_emulator::load().unwrap();
        cuda_emulator::configure("seed", seed).unwrap();
        let (_context, first, second) = streams();
        let mut left = first.alloc_zeros::<u32>(1).unwrap();
        let mut right = first.alloc_zeros::<u32>(2).unwrap();
        let source = first.clone_htod(&[7u32, 8]).unwrap();
        first.synchronize().unwrap();
        first.begin_capture(THREAD_LOCAL).unwrap();
        first.memcpy_dtod(&source.slice(0..1), &mut left).unwrap();
        second.join(&first).unwrap();
        assert_eq!(second.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        second.memcpy_dtod(&left, &mut right.slice_mut(0..1)).unwrap();
        first.memcpy_dtod(&source.slice(1..2), &mut right.slice_mut(1..2)).unwrap();
        first.join(&second).unwrap();
        let graph = first.end_capture(Flags(0)).unwrap().unwrap();
        let mut nodes = 0;
        unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut nodes) }.result().unwrap();
        assert_eq!(nodes, 3);
        assert_eq!(second.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
        graph.launch().unwrap();
        assert_eq!(first.clone_dtoh(&right).unwrap(), [7, 8]);
    }
}

#[test]
fn a_forked_stream_must_be_joined() {
    let (_context, first, second) = streams();
    let mut data = first.alloc_zeros::<u32>(1).unwrap();
    first.begin_capture(GLOBAL).unwrap();
    second.join(&first).unwrap();
    second.memset_zeros(&mut data).unwrap();
    assert_eq!(failed_end(&first), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    // After the failure, both streams work again.
    second.memset_zeros(&mut data).unwrap();
    second.synchronize().unwrap();
}

#[test]
fn a_capture_ends_where_it_began_and_in_its_thread() {
    let (_context, first, second) = streams();
    assert_eq!(failed_end(&first), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    first.begin_capture(GLOBAL).unwrap();
    assert_eq!(code(first.begin_capture(GLOBAL)), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    second.join(&first).unwrap();
    assert_eq!(failed_end(&second), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    let other = first.clone();
    let wrong = std::thread::spawn(move || {
        cuda_emulator::configure("quiet", "1").unwrap();
        failed_end(&other)
    })
    .join()
    .unwrap();
    assert_eq!(wrong, CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    assert_eq!(failed_end(&first), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn waiting_for_a_capturing_stream_breaks_the_capture() {
    let (context, stream, _) = streams();
    for wait in [CudaStream::synchronize as fn(&CudaStream) -> _, |stream| stream.context().synchronize()] {
        stream.begin_capture(RELAXED).unwrap();
        assert_eq!(code(wait(&stream)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(stream.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
        assert_eq!(failed_end(&stream), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    context.synchronize().unwrap();
}

#[test]
fn a_capture_cannot_depend_on_work_outside_it() {
    let (_context, first, second) = streams();
    let mut data = second.alloc_zeros::<u32>(1).unwrap();
    second.memset_zeros(&mut data).unwrap();
    let outside = second.record_event(None).unwrap();
    first.begin_capture(GLOBAL).unwrap();
    assert_eq!(code(first.wait(&outside)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(code(first.memset_zeros(&mut data)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_eq!(failed_end(&first), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn cudarc_with_event_tracking_breaks_that_rule() {
    cuda_emulator::load().unwrap();
    cuda_emulator::configure("quiet", "1").unwrap();
    let context = CudaContext::new_non_primary(0, 0).unwrap();
    let stream = context.new_stream().unwrap();
    let mut data = stream.clone_htod(&[1u32]).unwrap();
    stream.begin_capture(GLOBAL).unwrap();
    let _ = stream.memset_zeros(&mut data);
    assert!(stream.end_capture(Flags(0)).is_err(), "tracked slices wait for events outside the capture");
}

#[test]
fn the_host_cannot_wait_for_a_captured_event() {
    let (_context, stream, _) = streams();
    stream.begin_capture(GLOBAL).unwrap();
    let event = stream.record_event(None).unwrap();
    assert_eq!(code(event.synchronize()), CUresult::CUDA_ERROR_CAPTURED_EVENT);
    assert_eq!(failed_end(&stream), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn two_captures_cannot_become_one() {
    let (_context, first, second) = streams();
    first.begin_capture(GLOBAL).unwrap();
    second.begin_capture(GLOBAL).unwrap();
    assert_eq!(code(second.join(&first)), CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
    assert_eq!(failed_end(&first), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_eq!(failed_end(&second), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn allocations_are_forbidden_by_mode_and_pageable_copies_always() {
    let (_context, stream, _) = streams();
    stream.begin_capture(GLOBAL).unwrap();
    // Safety: the call is refused.
    assert_eq!(code(unsafe { result::malloc_sync(16) }), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(failed_end(&stream), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    stream.begin_capture(RELAXED).unwrap();
    // Safety: freed below.
    let address = unsafe { result::malloc_sync(16) }.unwrap();
    assert!(stream.end_capture(Flags(0)).unwrap().is_some());
    unsafe { result::free_sync(address) }.unwrap();

    let mut data = stream.alloc_zeros::<u32>(1).unwrap();
    stream.begin_capture(RELAXED).unwrap();
    assert_eq!(code(stream.memcpy_htod(&[1], &mut data)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert!(cuda_emulator::reports().contains("page-locked"));
    assert_eq!(failed_end(&stream), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn the_legacy_stream_cannot_be_captured() {
    let (context, stream, _) = streams();
    let legacy = context.default_stream();
    assert_eq!(code(legacy.begin_capture(GLOBAL)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let mut data = stream.alloc_zeros::<u32>(1).unwrap();
    // It works next to a capture in a non-blocking stream. Next to one in a blocking stream it would join that capture.
    stream.begin_capture(GLOBAL).unwrap();
    legacy.memset_zeros(&mut data).unwrap();
    assert!(stream.end_capture(Flags(0)).unwrap().is_some());
    let mine = context.per_thread_stream();
    mine.begin_capture(GLOBAL).unwrap();
    assert_eq!(code(legacy.memset_zeros(&mut data)), CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    assert_eq!(failed_end(&mine), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let (_context, stream, _) = streams();
    stream.begin_capture(THREAD_LOCAL).unwrap();
    let flags =
        Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    assert_eq!(code(stream.end_capture(flags).map(|_| ())), CUresult::CUDA_ERROR_INVALID_VALUE);
    stream.begin_capture(THREAD_LOCAL).unwrap();
    let empty = stream.end_capture(Flags(0)).unwrap().unwrap();
    empty.launch().unwrap();
    stream.synchronize().unwrap();
}
