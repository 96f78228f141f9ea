//! Post-dominators of hand-drawn and random graphs, and the branches of small kernels.

use proptest::prelude::*;

use super::*;
use crate::ir::Program;

fn found(successors: &[&[u32]]) -> Vec<u32> {
    post_dominators(successors)
}

/// ```text
///   0 ─► 1 ─► 3 ─► exit
///   └──► 2 ──┘
/// ```
#[test]
fn an_if_else_reconverges() {
    assert_eq!(found(&[&[1, 2], &[3], &[3], &[EXIT]]), [3, 3, 3, EXIT]);
}

/// ```text
///   0 ─► 1 ─► 2 ─► 4 ─► exit
///        ▲    │
///        └─ 3 ◄      2 leaves the loop or repeats it
/// ```
#[test]
fn a_loop_reconverges_after_it() {
    assert_eq!(found(&[&[1], &[2], &[3, 4], &[1], &[EXIT]]), [1, 2, 4, 1, EXIT]);
}

/// ```text
///   0 ─► 1 ─► exit
///   └──► 2 ─► 3 ─► exit     a thread that returned early never comes back
/// ```
#[test]
fn an_early_return_reconverges_at_the_exit() {
    assert_eq!(found(&[&[1, 2], &[EXIT], &[3], &[EXIT]]), [EXIT, EXIT, 3, EXIT]);
}

/// ```text
///   0 ─► 1 (trap)
///   └──► 2 ─► 3 ─► exit
/// ```
#[test]
fn a_path_into_a_trap_is_ignored() {
    assert_eq!(found(&[&[1, 2], &[], &[3], &[EXIT]]), [2, EXIT, 3, EXIT]);
}

/// ```text
///   0 ─► 1 ─► 2 ─► 5 ─► 6 ─► exit
///   │    └──► 3 ──┘     ▲
///   └──► 4 ─────────────┘
/// ```
#[test]
fn nested_branches() {
    assert_eq!(found(&[&[1, 4], &[2, 3], &[5], &[5], &[6], &[6], &[EXIT]]), [6, 5, 5, 5, 6, 6, EXIT]);
}

/// 0 enters the loop of 1 and 2 at both nodes; structured code never gives such a graph.
#[test]
fn a_loop_with_two_entries() {
    assert_eq!(found(&[&[1, 2], &[2], &[1, 3], &[EXIT]]), [2, 2, 3, EXIT]);
}

#[test]
fn an_endless_loop_has_no_reconvergence_point() {
    assert_eq!(found(&[&[1], &[1, 2], &[1]]), [EXIT, EXIT, EXIT]);
}

/// Whether a path leads from a node to the exit without passing another node.
fn escapes(successors: &[Vec<u32>], from: u32, without: Option<u32>) -> bool {
    let mut seen = vec![false; successors.len()];
    let mut stack = vec![from];
    while let Some(node) = stack.pop() {
        if node == EXIT {
            return true;
        }
        if Some(node) != without && !std::mem::replace(&mut seen[node as usize], true) {
            stack.extend(&successors[node as usize]);
        }
    }
    false
}

proptest! {
    /// By definition, a node post-dominates another one if no path reaches the exit without it.
    #[test]
    fn random_graphs(edges in prop::collection::vec(prop::collection::vec(0..9_u32, 0..3), 8)) {
        // 8 is the exit.
        let edges: Vec<Vec<u32>> =
            edges.iter().map(|to| to.iter().map(|&n| if n == 8 { EXIT } else { n }).collect()).collect();
        let successors: Vec<&[u32]> = edges.iter().map(Vec::as_slice).collect();
        let result = found(&successors);
        let after = |node: u32, d: u32| node != d && escapes(&edges, node, None) && !escapes(&edges, node, Some(d));
        for node in 0..8 {
            let all: Vec<u32> = (0..8).filter(|&d| after(node, d)).collect();
            // The nearest one: all others come after it.
            let nearest = all.iter().copied().find(|&d| all.iter().all(|&other| other == d || after(d, other)));
            prop_assert_eq!(result[node as usize], nearest.unwrap_or(EXIT), "node {} of {:?}", node, edges);
        }
    }
}

/// Target and reconvergence point of every branch, as instruction indices.
fn branches(body: &str) -> Vec<(u32, u32)> {
    let text = format!(
        ".version 9.0 .target sm_80 .address_size 64 .entry k() {{ .reg .pred %p<9>; .reg .b32 %r<9>; {body} }}"
    );
    let program = Program::load(&text).unwrap();
    let branch = |instruction: &Instruction| match instruction.op {
        Op::Branch { target, reconvergence } => Some((target, reconvergence)),
        Op::BranchTable { reconvergence, .. } => Some((u32::MAX, reconvergence)),
        _ => None,
    };
    program.kernels[0].code.iter().filter_map(branch).collect()
}

#[test]
fn branches_of_a_kernel() {
    // 0: @p bra ELSE  1: membar  2: bra.uni END  3: ELSE: membar  4: END: ret
    let body = "@%p1 bra ELSE; membar.cta; bra.uni END; ELSE: membar.cta; END: ret;";
    assert_eq!(branches(body), [(3, 4), (4, 4)]);
    // 0: LOOP: membar  1: @!p bra LOOP  2: ret
    assert_eq!(branches("LOOP: membar.cta; @!%p1 bra LOOP; ret;"), [(0, 2)]);
    // 0: @p exit  1: @p bra END  2: membar  3: END: ret — a guarded exit ends a block but not the path.
    assert_eq!(branches("@%p1 exit; @%p2 bra END; membar.cta; END: ret;"), [(3, 3)]);
    // 0: @p bra END  1: trap  2: END: ret
    assert_eq!(branches("@%p1 bra END; trap; END: ret;"), [(2, 2)]);
    // 0: brx  1: A: membar  2: bra END  3: B: membar  4: END: ret
    let body = "T: .branchtargets A, B, END; brx.idx %r1, T; A: membar.cta; bra END; B: membar.cta; END: ret;";
    assert_eq!(branches(body), [(u32::MAX, 4), (4, 4)]);
    // The same label in two scopes.
    assert_eq!(branches("{ L: membar.cta; @%p1 bra L; } { L: membar.cta; @%p1 bra L; } ret;"), [(0, 2), (2, 4)]);
}
