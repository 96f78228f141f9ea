//! The commands that a context has accepted and not yet run: a graph of tasks ordered by streams and events.
//!
//! Nothing runs when it is submitted. Tasks run when the host waits for them, in an order that the program *allows*,
//! which need not be the order of the calls:
//!
//! - without a seed, only the tasks that the wait needs, and among those that are ready the one submitted last. Work of
//!   another stream therefore runs as late as the program permits: a missing event wait shows as uninitialised or stale
//!   data;
//! - with a seed, any ready task, chosen at random.

use std::collections::{BTreeMap, BTreeSet};

/// Number of a task, counted from 1 in order of submission.
pub type TaskId = u64;

/// Tasks that wait to run; `C` is the command of a task.
pub struct Queue<C> {
    tasks: BTreeMap<TaskId, Task<C>>,
    ready: BTreeSet<TaskId>,
    submitted: TaskId,
    random: Option<SplitMix>,
}

struct Task<C> {
    command: C,
    /// Tasks that this one waits for, among those that were pending at submission.
    after: Vec<TaskId>,
    /// How many of `after` are still pending.
    blockers: usize,
    dependents: Vec<TaskId>,
}

/// What the queue must run until.
pub enum Goal {
    /// These tasks are done.
    Done(Vec<TaskId>),
    /// Nothing is pending.
    Empty,
}

impl<C> Queue<C> {
    /// An empty queue; `seed` determines the random order.
    pub fn new(seed: Option<u64>) -> Self {
        Queue { tasks: BTreeMap::new(), ready: BTreeSet::new(), submitted: 0, random: seed.map(SplitMix) }
    }

    /// Adds a task that runs after the given ones; tasks that are already done are ignored.
    pub fn submit(&mut self, after: &[TaskId], command: C) -> TaskId {
        self.submitted += 1;
        let id = self.submitted;
        let mut after: Vec<TaskId> = after.iter().copied().filter(|task| self.tasks.contains_key(task)).collect();
        after.sort_unstable();
        after.dedup();
        for task in &after {
            if let Some(earlier) = self.tasks.get_mut(task) {
                earlier.dependents.push(id);
            }
        }
        if after.is_empty() {
            self.ready.insert(id);
        }
        let blockers = after.len();
        self.tasks.insert(id, Task { command, after, blockers, dependents: Vec::new() });
        id
    }

    /// Whether this task still has to run.
    pub fn is_pending(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// Number of tasks that still have to run.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Drops all pending tasks (nothing runs after a fault).
    pub fn clear(&mut self) {
        self.tasks.clear();
        self.ready.clear();
    }

    /// The pending tasks that the goal needs.
    fn needed(&self, goal: &Goal) -> BTreeSet<TaskId> {
        let mut open: Vec<TaskId> = match goal {
            Goal::Empty => return self.tasks.keys().copied().collect(),
            Goal::Done(tasks) => tasks.clone(),
        };
        let mut needed = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(task) = self.tasks.get(&id)
                && needed.insert(id)
            {
                open.extend(&task.after);
            }
        }
        needed
    }

    /// The tasks to run for the goal: call [`WaitSet::next`] until it returns `None`.
    pub fn wait_set(&self, goal: &Goal) -> WaitSet {
        WaitSet { needed: self.needed(goal) }
    }

    /// Removes a ready task and returns its command; tasks that waited only for it become ready.
    fn take(&mut self, id: TaskId) -> Option<C> {
        self.ready.remove(&id);
        let task = self.tasks.remove(&id)?;
        for dependent in task.dependents {
            if let Some(later) = self.tasks.get_mut(&dependent) {
                later.blockers -= 1;
                if later.blockers == 0 {
                    self.ready.insert(dependent);
                }
            }
        }
        Some(task.command)
    }
}

/// The tasks that a wait still needs.
pub struct WaitSet {
    needed: BTreeSet<TaskId>,
}

impl WaitSet {
    /// The command of the next task; `None` once the goal is reached. The caller must run it before the next call.
    pub fn next<C>(&mut self, queue: &mut Queue<C>) -> Option<C> {
        if self.needed.is_empty() {
            return None;
        }
        let id = match &mut queue.random {
            Some(random) => {
                let chosen = random.next() as usize % queue.ready.len().max(1);
                *queue.ready.iter().nth(chosen)?
            }
            None => *queue.ready.iter().rev().find(|task| self.needed.contains(task))?,
        };
        self.needed.remove(&id);
        queue.take(id)
    }
}

/// The generator of Steele, Lea and Flood: good enough to choose an order.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(queue: &mut Queue<u32>, goal: Goal) -> Vec<u32> {
        let mut wait_set = queue.wait_set(&goal);
        std::iter::from_fn(|| wait_set.next(queue)).collect()
    }

    /// Two streams, 1-2-3 and 10-20-30; 30 also waits for 2.
    fn two_streams(seed: Option<u64>) -> (Queue<u32>, TaskId, TaskId) {
        let mut queue = Queue::new(seed);
        let one = queue.submit(&[], 1);
        let two = queue.submit(&[one], 2);
        let three = queue.submit(&[two], 3);
        let ten = queue.submit(&[], 10);
        let twenty = queue.submit(&[ten], 20);
        let thirty = queue.submit(&[twenty, two], 30);
        (queue, three, thirty)
    }

    #[test]
    fn a_wait_runs_what_it_needs_and_leaves_the_rest() {
        let (mut queue, three, thirty) = two_streams(None);
        assert_eq!(run(&mut queue, Goal::Done(vec![thirty])), [10, 20, 1, 2, 30]);
        assert!(queue.is_pending(three) && !queue.is_pending(thirty));
        assert_eq!(run(&mut queue, Goal::Empty), [3]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn every_seed_keeps_the_order_of_streams_and_events() {
        let mut orders = BTreeSet::new();
        for seed in 0..64 {
            let (mut queue, _, _) = two_streams(Some(seed));
            let order = run(&mut queue, Goal::Empty);
            let position = |value| order.iter().position(|&other| other == value).unwrap();
            assert_eq!(order.len(), 6);
            assert!(position(1) < position(2) && position(2) < position(3) && position(10) < position(20));
            assert!(position(20) < position(30) && position(2) < position(30));
            orders.insert(order);
        }
        assert!(orders.len() > 5, "the seeds give only {} orders", orders.len());
    }

    #[test]
    fn a_dependency_on_a_finished_task_is_ignored() {
        let mut queue = Queue::new(None);
        let first = queue.submit(&[], 1);
        assert_eq!(run(&mut queue, Goal::Empty), [1]);
        let second = queue.submit(&[first, first], 2);
        assert_eq!(run(&mut queue, Goal::Done(vec![second])), [2]);
    }
}
