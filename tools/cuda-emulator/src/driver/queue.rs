//! The work that a context has accepted and not yet executed: a graph of tasks ordered by streams and events.
//!
//! Nothing runs when it is submitted. It runs when the host waits for it, and then in an order that the program has
//! *allowed*, not the one in which it was written:
//!
//! - without a seed, only what the waited-for task needs, and among the tasks that may run next the one submitted last.
//!   Work of another stream therefore happens as late as the program permits: a missing event wait shows as
//!   uninitialised or stale data;
//! - with a seed, any task that may run next, chosen at random.

use std::collections::{BTreeMap, BTreeSet};

/// Number of a task, counted up from 1 in order of submission.
pub type TaskId = u64;

/// Tasks that wait to run; `W` is what a task does.
pub struct Queue<W> {
    tasks: BTreeMap<TaskId, Task<W>>,
    ready: BTreeSet<TaskId>,
    submitted: TaskId,
    random: Option<SplitMix>,
}

struct Task<W> {
    work: W,
    /// Tasks this one waits for, as far as they were pending when it came.
    after: Vec<TaskId>,
    /// How many of `after` are still pending.
    blockers: usize,
    dependents: Vec<TaskId>,
}

/// What a run of the queue is to achieve.
pub enum Goal {
    /// These tasks are done.
    Done(Vec<TaskId>),
    /// Nothing is pending.
    Empty,
}

impl<W> Queue<W> {
    /// An empty queue; `seed` chooses the random order.
    pub fn new(seed: Option<u64>) -> Self {
        Queue { tasks: BTreeMap::new(), ready: BTreeSet::new(), submitted: 0, random: seed.map(SplitMix) }
    }

    /// Adds a task that runs after the given ones; those already done count for nothing.
    pub fn submit(&mut self, after: &[TaskId], work: W) -> TaskId {
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
        self.tasks.insert(id, Task { work, after, blockers, dependents: Vec::new() });
        id
    }

    /// Whether this task has yet to run.
    pub fn is_pending(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// Number of tasks that have yet to run.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Forgets everything pending (after a fault, nothing runs any more).
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

    /// A plan towards the goal: call [`Plan::next`] until it answers `None`.
    pub fn plan(&self, goal: &Goal) -> Plan {
        Plan { needed: self.needed(goal) }
    }

    /// Removes a task that may run and hands out its work; those that waited for it alone become ready.
    fn take(&mut self, id: TaskId) -> Option<W> {
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
        Some(task.work)
    }
}

/// The tasks that a wait still needs.
pub struct Plan {
    needed: BTreeSet<TaskId>,
}

impl Plan {
    /// The next task to run and its work; `None` once the goal is reached. The caller runs it before it asks again.
    pub fn next<W>(&mut self, queue: &mut Queue<W>) -> Option<W> {
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

/// Steele, Lea and Flood's generator: enough to choose an order.
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
        let mut plan = queue.plan(&goal);
        std::iter::from_fn(|| plan.next(queue)).collect()
    }

    /// Two streams, 1-2-3 and 10-20-30, where 30 also waits for 2.
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
            let place = |value| order.iter().position(|&other| other == value).unwrap();
            assert_eq!(order.len(), 6);
            assert!(place(1) < place(2) && place(2) < place(3) && place(10) < place(20));
            assert!(place(20) < place(30) && place(2) < place(30));
            orders.insert(order);
        }
        assert!(orders.len() > 5, "the seeds give only {} orders", orders.len());
    }

    #[test]
    fn a_dependency_on_a_finished_task_counts_for_nothing() {
        let mut queue = Queue::new(None);
        let first = queue.submit(&[], 1);
        assert_eq!(run(&mut queue, Goal::Empty), [1]);
        let second = queue.submit(&[first, first], 2);
        assert_eq!(run(&mut queue, Goal::Done(vec![second])), [2]);
    }
}
