//! Keeping rayon's threads awake through a run of small ops.
//!
//! A thread of the pool that finds no work goes to sleep within microseconds, and waking it takes some fifty: more than many
//! an op of decoding. Here the other threads look for work until the whole run is over.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::Yield;

/// Looks without work before the processor is offered to other programs.
const SPINS: u32 = 200;

/// Runs `work` while all other threads of the pool wait for its parts without sleeping.
pub fn on_the_alert<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::current_num_threads();
    if threads == 1 {
        return work();
    }
    let over = AtomicBool::new(false);
    rayon::scope(|scope| {
        // The oldest job of a queue is stolen first, so watches begin before any part of the work is taken; a thread that
        // waits for a part of its own never picks up a watch, which would keep it from going on.
        for _ in 1..threads {
            scope.spawn(|_| watch(&over));
        }
        let _ends = EndsWatch(&over);
        work()
    })
}

/// Sets its flag when it goes, by a panic too: a watch that never ends would hang the program.
struct EndsWatch<'a>(&'a AtomicBool);

impl Drop for EndsWatch<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Takes up whatever work there is until it is over.
fn watch(over: &AtomicBool) {
    let mut idle = 0;
    while !over.load(Ordering::Acquire) {
        if rayon::yield_now() == Some(Yield::Executed) {
            idle = 0;
        } else if idle < SPINS {
            idle += 1;
            std::hint::spin_loop();
        } else {
            idle = 0;
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::on_the_alert;

    #[test]
    fn work_and_its_parts_are_done_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let sum = pool.install(|| {
                on_the_alert(|| {
                    (0..200u64).map(|i| (0..1000u64).into_par_iter().map(|j| i * j).sum::<u64>()).sum::<u64>()
                })
            });
            assert_eq!(sum, (199 * 200 / 2) * (999 * 1000 / 2), "{threads} threads");
        }
    }

    #[test]
    fn a_panic_ends_the_watch() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.install(|| on_the_alert(|| panic!("on purpose")));
        }));
        assert!(caught.is_err());
    }
}
