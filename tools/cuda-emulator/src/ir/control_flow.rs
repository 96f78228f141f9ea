//! Where diverged paths meet again: immediate post-dominators of the basic blocks of a kernel.
//!
//! Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm" (2001), on the graph with its edges turned round. A
//! block from which no path leads to the exit (it traps or loops for ever) does not count: no thread comes back from it.

use super::{Guard, Instruction, Op};

/// A run of instructions that is entered at its first and left at its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Index of the first instruction.
    pub start: u32,
    /// Index after the last one.
    pub end: u32,
    /// Blocks that may follow; [`EXIT`] is the end of the thread.
    pub successors: Vec<u32>,
}

/// The exit, as a successor and as a post-dominator.
pub const EXIT: u32 = u32::MAX;

/// Fills in `reconvergence` of every branch.
pub fn set_reconvergence(code: &mut [Instruction], tables: &[u32]) {
    let blocks = blocks(code, tables);
    let successors: Vec<&[u32]> = blocks.iter().map(|block| block.successors.as_slice()).collect();
    let post = post_dominators(&successors);
    for (block, post) in blocks.iter().zip(post) {
        let meets_at = match post {
            EXIT => u32::MAX,
            post => blocks[post as usize].start,
        };
        match &mut code[block.end as usize - 1].op {
            Op::Branch { reconvergence, .. } | Op::BranchTable { reconvergence, .. } => *reconvergence = meets_at,
            _ => {}
        }
    }
}

/// Where an instruction may continue: the next instruction, and others.
fn ways_on<'c>(instruction: &'c Instruction, tables: &'c [u32]) -> Option<(bool, &'c [u32], bool)> {
    let guarded = instruction.guard != Guard::ALWAYS;
    match &instruction.op {
        Op::Branch { target, .. } => Some((guarded, std::slice::from_ref(target), false)),
        Op::BranchTable { first, count, .. } => Some((guarded, &tables[*first as usize..][..*count as usize], false)),
        Op::Exit => Some((guarded, &[], true)),
        // A trap ends the launch: nothing comes after it, the exit neither.
        Op::Trap => Some((guarded, &[], false)),
        _ => None,
    }
}

/// The basic blocks in the order of the code.
pub fn blocks(code: &[Instruction], tables: &[u32]) -> Vec<Block> {
    let mut starts = vec![false; code.len() + 1];
    starts[0] = true;
    for (at, instruction) in code.iter().enumerate() {
        if let Some((_, targets, _)) = ways_on(instruction, tables) {
            starts[at + 1] = true;
            for target in targets {
                starts[*target as usize] = true;
            }
        }
    }
    // The block that each start begins.
    let mut numbers = vec![EXIT; code.len() + 1];
    let begins: Vec<usize> = (0..code.len()).filter(|at| starts[*at]).collect();
    for (number, start) in begins.iter().enumerate() {
        numbers[*start] = number as u32;
    }
    let ends = begins.iter().skip(1).copied().chain([code.len()]);
    let block = |(start, end): (&usize, usize)| {
        let mut successors = Vec::new();
        let (falls_through, targets, exits) = ways_on(&code[end - 1], tables).unwrap_or((true, &[], false));
        if falls_through {
            successors.push(numbers[end]);
        }
        successors.extend(targets.iter().map(|target| numbers[*target as usize]));
        if exits {
            successors.push(EXIT);
        }
        successors.sort_unstable();
        successors.dedup();
        Block { start: *start as u32, end: end as u32, successors }
    };
    begins.iter().zip(ends).map(block).collect()
}

/// The immediate post-dominator of each node: the first node that every path from it to the exit passes.
/// [`EXIT`] where there is none before the exit, or where the exit cannot be reached.
pub fn post_dominators(successors: &[&[u32]]) -> Vec<u32> {
    let exit = successors.len() as u32;
    let node = |successor: u32| if successor == EXIT { exit } else { successor };
    let mut predecessors = vec![Vec::new(); successors.len() + 1];
    for (from, targets) in successors.iter().enumerate() {
        for target in targets.iter() {
            predecessors[node(*target) as usize].push(from as u32);
        }
    }
    let order = postorder(&predecessors, exit);
    let mut rank = vec![None; successors.len() + 1];
    for (position, node) in order.iter().enumerate() {
        rank[*node as usize] = Some(position);
    }
    let mut immediate: Vec<Option<u32>> = vec![None; successors.len() + 1];
    immediate[exit as usize] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        // The exit is the last of the order; the walk goes from it into the graph.
        for &here in order.iter().rev().skip(1) {
            let known = successors[here as usize].iter().map(|s| node(*s)).filter(|s| immediate[*s as usize].is_some());
            let meet = known.reduce(|a, b| intersect(a, b, &immediate, &rank));
            if meet.is_some() && immediate[here as usize] != meet {
                immediate[here as usize] = meet;
                changed = true;
            }
        }
    }
    immediate.iter().take(successors.len()).map(|found| found.filter(|found| *found != exit).unwrap_or(EXIT)).collect()
}

/// The nearest node above both in the tree of post-dominators.
fn intersect(mut a: u32, mut b: u32, immediate: &[Option<u32>], rank: &[Option<usize>]) -> u32 {
    while a != b {
        let lower = if rank[a as usize] < rank[b as usize] { &mut a } else { &mut b };
        match immediate[*lower as usize] {
            Some(above) => *lower = above,
            None => return a.max(b),
        }
    }
    a
}

/// Nodes that can be reached, each after those it leads to; without recursion, for code may be long.
fn postorder(edges: &[Vec<u32>], root: u32) -> Vec<u32> {
    let mut order = Vec::new();
    let mut seen = vec![false; edges.len()];
    let mut stack = vec![(root, 0)];
    seen[root as usize] = true;
    while let Some((node, next)) = stack.last_mut() {
        match edges[*node as usize].get(*next) {
            Some(&target) => {
                *next += 1;
                if !seen[target as usize] {
                    seen[target as usize] = true;
                    stack.push((target, 0));
                }
            }
            None => {
                order.push(*node);
                stack.pop();
            }
        }
    }
    order
}

#[cfg(test)]
mod tests;
