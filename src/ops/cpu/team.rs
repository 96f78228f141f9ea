//! Pieces of an op on several threads, without a thread going to sleep between two small ops.
//!
//! A rayon thread that finds no work sleeps within microseconds, and waking it takes about fifty: more than many ops of
//! decoding. So a run of small ops is wrapped in [`together`]: until it ends, the pool's other threads spin and take pieces
//! of every [`each`] call, about 0.3 µs after it starts. Outside of a team, pieces go through rayon.

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::Yield;
use rayon::prelude::*;

/// Polls of the job before looking for rayon's other work, and before yielding the processor to other programs.
const POLLS_BEFORE_RAYON: u32 = 64;
const POLLS_BEFORE_YIELD: u32 = 4096;

thread_local! {
    /// How [`each`] runs on this thread.
    static MODE: Cell<Mode> = const { Cell::new(Mode::Rayon) };
}

#[derive(Clone, Copy)]
enum Mode {
    Rayon,
    /// This thread leads a team.
    Lead(*const Team),
    Alone,
}

/// Sets the mode of this thread until it is dropped.
struct ModeGuard(Mode, PhantomData<*const ()>);

impl ModeGuard {
    fn enter(mode: Mode) -> Self {
        Self(MODE.replace(mode), PhantomData)
    }
}

impl Drop for ModeGuard {
    fn drop(&mut self) {
        MODE.set(self.0);
    }
}

/// Calls `f` for pieces 0..count, in any order, on all available threads. A piece must not depend on the
/// others.
pub fn each(count: usize, f: impl Fn(usize) + Send + Sync) {
    match MODE.get() {
        Mode::Lead(team) if count > 1 => {
            // Safety: the team outlives the mode that names it: `together` holds both.
            unsafe { &*team }.share(count, &f);
        }
        Mode::Rayon if count > 1 => (0..count).into_par_iter().with_max_len(1).for_each(f),
        _ => (0..count).for_each(f),
    }
}

/// Like [`each`], for items instead of numbers: for pieces that own their part of the output.
pub fn each_of<T: Send>(items: impl IntoIterator<Item = T>, f: impl Fn(T) + Send + Sync) {
    if matches!(MODE.get(), Mode::Alone) {
        return items.into_iter().for_each(f);
    }
    let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    each(items.len(), |i| {
        let item = items[i].lock().unwrap_or_else(PoisonError::into_inner).take();
        f(item.expect("each number comes once"));
    });
}

/// Threads that [`each`] can count on here.
pub fn threads() -> usize {
    if matches!(MODE.get(), Mode::Alone) { 1 } else { rayon::current_num_threads() }
}

/// Rows of a piece of an op that treats all rows alike: all of them if there are too few to share, and less than `most` if
/// helpers are waiting; `rows` ≥ 1.
pub fn piece_rows(rows: usize, most: usize) -> usize {
    if is_awake() && rows >= 16 {
        rows.div_ceil(2 * threads()).min(most)
    } else if rows <= 2 * most {
        rows
    } else {
        most
    }
}

/// Whether helpers are waiting, so that sharing a small piece of work pays off.
pub fn is_awake() -> bool {
    matches!(MODE.get(), Mode::Lead(_))
}

/// Runs `work` with every `each` in it on this thread alone: for work that is itself a piece of something parallel.
pub fn alone<R>(work: impl FnOnce() -> R) -> R {
    let _mode = ModeGuard::enter(Mode::Alone);
    work()
}

/// Runs `work` while the pool's other threads wait for its pieces.
pub fn together<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::current_num_threads();
    if threads == 1 || !matches!(MODE.get(), Mode::Rayon) {
        return work();
    }
    let team = Team::default();
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| team.help());
        }
        let _ended = SetOnDrop(&team.ended);
        let _mode = ModeGuard::enter(Mode::Lead(&team));
        work()
    })
}

/// Sets its flag when it is dropped, also by a panic: threads that wait for ever would hang the program.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The leader's job: a closure, behind pointers because it lives on the leader's stack.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    closure: *const (),
    count: usize,
}

/// A leader and its helpers. The job is read only by threads that are inside, and changed only when none is.
#[derive(Default)]
struct Team {
    /// Upper half: twice the number of the job, plus 1 while it is open. Lower half: threads inside.
    state: AtomicU64,
    /// The next piece to take.
    next: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    ended: AtomicBool,
}

// Safety: `job` is written by the leader while the state is closed and no thread inside, and read only inside.
unsafe impl Sync for Team {}

const JOB: u64 = 1 << 32;

impl Team {
    /// Runs all pieces of `f`, with any helpers that come. All have left when this returns, also by a panic.
    fn share<F: Fn(usize) + Sync>(&self, count: usize, f: &F) {
        unsafe fn call<F: Fn(usize)>(closure: *const (), piece: usize) {
            // Safety: `closure` is the `f` of the `share` that is waiting for this call.
            let f = unsafe { &*closure.cast::<F>() };
            f(piece);
        }
        // Safety: closed, and the last `share` waited until no thread was inside.
        unsafe { *self.job.get() = Some(Job { call: call::<F>, closure: std::ptr::from_ref(f).cast(), count }) };
        self.next.store(0, Ordering::Relaxed);
        self.state.fetch_add(JOB, Ordering::Release);
        let _closes = Closes(self);
        self.take_pieces(Job { call: call::<F>, closure: std::ptr::from_ref(f).cast(), count });
    }

    fn take_pieces(&self, job: Job) {
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= job.count {
                return;
            }
            // Safety: the closure is alive: `share` returns only when no thread is inside.
            unsafe { (job.call)(job.closure, piece) };
        }
    }

    /// Takes pieces of every job until the team ends.
    fn help(&self) {
        let (mut seen, mut polls) = (0, 0);
        while !self.ended.load(Ordering::Acquire) {
            let state = self.state.load(Ordering::Acquire);
            let open = (state / JOB) % 2 == 1;
            if open && state / JOB != seen {
                // Inside only if the job is still this one and open.
                if self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    let _leaves = Leaves(self);
                    seen = state / JOB;
                    // Safety: inside, so no thread writes it.
                    let job = unsafe { *self.job.get() }.expect("an open job");
                    let _mode = ModeGuard::enter(Mode::Alone);
                    self.take_pieces(job);
                    polls = 0;
                }
            } else {
                polls += 1;
                wait(polls);
            }
        }
    }
}

/// One poll without a job: from time to time it looks through rayon's queues, for work from elsewhere.
fn wait(polls: u32) {
    if !polls.is_multiple_of(POLLS_BEFORE_RAYON) {
        std::hint::spin_loop();
    } else if rayon::yield_now() != Some(Yield::Executed) && polls.is_multiple_of(POLLS_BEFORE_YIELD) {
        std::thread::yield_now();
    }
}

/// Closes the job, then waits until no thread is inside.
struct Closes<'a>(&'a Team);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        // After a panic no thread may begin another piece.
        self.0.next.store(usize::MAX / 2, Ordering::Relaxed);
        let mut state = self.0.state.fetch_add(JOB, Ordering::AcqRel) + JOB;
        let mut polls = 0u32;
        while !state.is_multiple_of(JOB) {
            polls += 1;
            if polls.is_multiple_of(POLLS_BEFORE_YIELD) {
                std::thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
            state = self.0.state.load(Ordering::Acquire);
        }
    }
}

/// Leaves the job, also by a panic.
struct Leaves<'a>(&'a Team);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{alone, each, each_of, threads, together};

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// 500 rounds of pieces: every piece of every round once, and a round is whole before the next begins.
    fn rounds() {
        let done: Vec<AtomicU64> = (0..37).map(|_| AtomicU64::new(0)).collect();
        for round in 0..500 {
            each(1 + round % 37, |piece| {
                done[piece].fetch_add(1, Ordering::Relaxed);
            });
            let expected = |piece: usize| (0..=round).filter(|r| piece <= r % 37).count() as u64;
            assert!(done.iter().enumerate().all(|(i, d)| d.load(Ordering::Relaxed) == expected(i)), "round {round}");
        }
    }

    #[test]
    fn every_piece_is_done_once_before_the_next_round() {
        for threads in [1, 2, 5] {
            pool(threads).install(rounds);
            pool(threads).install(|| together(rounds));
            pool(threads).install(|| alone(rounds));
        }
    }

    #[test]
    fn a_team_helps_its_leader() {
        // Each piece waits for the other: one thread alone would never end.
        pool(2).install(|| {
            together(|| {
                let there = AtomicU64::new(0);
                each(2, |_| {
                    there.fetch_add(1, Ordering::AcqRel);
                    while there.load(Ordering::Acquire) < 2 {
                        std::thread::yield_now();
                    }
                });
                assert_eq!(there.load(Ordering::Acquire), 2);
            })
        });
    }

    #[test]
    fn items_come_once_each_with_their_part() {
        pool(3).install(|| {
            together(|| {
                let mut out = vec![0; 100];
                each_of(out.chunks_mut(7).enumerate(), |(i, part)| part.iter_mut().for_each(|x| *x += i));
                assert!(out.iter().enumerate().all(|(at, x)| *x == at / 7));
            })
        });
    }

    #[test]
    fn alone_means_one_thread() {
        pool(3).install(|| {
            assert_eq!(threads(), 3);
            let here = std::thread::current().id();
            alone(|| {
                assert_eq!(threads(), 1);
                each(100, |_| assert_eq!(std::thread::current().id(), here));
            });
            assert_eq!(threads(), 3, "the mode ends with its work");
        });
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller() {
        for bad in [0, 7, 99] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool(3).install(|| together(|| each(100, |piece| assert!(piece != bad, "on purpose"))));
            }));
            assert!(caught.is_err(), "piece {bad}");
        }
    }

    #[test]
    fn a_panic_between_pieces_lets_the_others_go() {
        let caught = catch_unwind(AssertUnwindSafe(|| pool(3).install(|| together(|| panic!("on purpose")))));
        assert!(caught.is_err());
    }
}
