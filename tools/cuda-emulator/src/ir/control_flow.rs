//! Where diverged paths reconverge: the immediate post-dominators of a kernel's basic blocks.
//!
//! Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm" (2001), on the graph with reversed edges. Blocks
//! without a path to the exit (they trap or loop forever) are ignored: no thread returns from them.

use super::{Guard, Instruction, Op};

/// A sequence of instructions that is entered only at its first and left only at its last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Index of the first instruction.
    pub start: u32,
    /// Index after the last instruction.
    pub end: u32,
    /// Possible next blocks; [`EXIT`] is the end of the thread.
    pub successors: Vec<u32>,
}

/// The exit, as a successor and as a post-dominator.
pub const EXIT: u32 = u32::MAX;

/// Sets `reconvergence` of every branch.
pub fn set_reconvergence(code: &mut [Instruction], tables: &[u32]) {
    let blocks = blocks(code, tables);
    let successors: Vec<&[u32]> = blocks.iter().map(|block| block.successors.as_slice()).collect();
    let post = post_dominators(&successors);
    for (block, post) in blocks.iter().zip(post) {
        let reconverges_at = match post {
            EXIT => u32::MAX,
            post => blocks[post as usize].start,
        };
        match &mut code[block.end as usize - 1].op {
            Op::Branch { reconvergence, .. } | Op::BranchTable { reconvergence, .. } => *reconvergence = reconverges_at,
            _ => {}
        }
    }
}

/// The control flow after an instruction, if it ends a block: whether it may fall through, its targets, and whether it
/// may exit.
fn control_flow_after<'c>(instruction: &'c Instruction, tables: &'c [u32]) -> Option<(bool, &'c [u32], bool)> {
    let guarded = instruction.guard != Guard::ALWAYS;
    match &instruction.op {
        Op::Branch { target, .. } => Some((guarded, std::slice::from_ref(target), false)),
        Op::BranchTable { first, count, .. } => Some((guarded, &tables[*first as usize..][..*count as usize], false)),
        Op::Exit => Some((guarded, &[], true)),
        // A trap ends the launch: no instruction follows it, and the thread does not reach the exit.
        Op::Trap => Some((guarded, &[], false)),
        _ => None,
    }
}

/// The basic blocks in code order.
pub fn blocks(code: &[Instruction], tables: &[u32]) -> Vec<Block> {
    let mut starts = vec![false; code.len() + 1];
    starts[0] = true;
    for (at, instruction) in code.iter().enumerate() {
        if let Some((_, targets, _)) = control_flow_after(instruction, tables) {
            starts[at + 1] = true;
            for target in targets {
                starts[*target as usize] = true;
            }
        }
    }
    // The number of the block that starts at each instruction.
    let mut numbers = vec![EXIT; code.len() + 1];
    let begins: Vec<usize> = (0..code.len()).filter(|at| starts[*at]).collect();
    for (number, start) in begins.iter().enumerate() {
        numbers[*start] = number as u32;
    }
    let ends = begins.iter().skip(1).copied().chain([code.len()]);
    let block = |(start, end): (&usize, usize)| {
        let mut successors = Vec::new();
        let (falls_through, targets, exits) = control_flow_after(&code[end - 1], tables).unwrap_or((true, &[], false));
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

/// The immediate post-dominator of each node: the first node that lies on every path from it to the exit. [`EXIT`] if
/// there is none before the exit, or if the exit is unreachable.
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
        // The exit is last in the order; the walk starts there.
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

/// The nearest common ancestor in the post-dominator tree.
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

/// Reachable nodes, each after its successors. Not recursive, because code can be long.
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
