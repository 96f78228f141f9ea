//! Rows are shared only by registers that are never live together: random walks through a kernel read the same values
//! with and without row allocation.

use proptest::prelude::*;

use super::*;
use crate::ir::Program;

const ADAMW: &str = include_str!("../../../tests/fixtures/adamw-80.ptx");
const LOOPS: &str = include_str!("../../../tests/fixtures/loops-80.ptx");

/// Nested loops, values that live across them, results under guards, vectors, in-place operands.
const TANGLED: &str = ".version 9.0 .target sm_80 .address_size 64
    .entry k(.param .u64 k_0) {
        .reg .pred %p<4>; .reg .b32 %r<30>; .reg .b64 %rd<9>;
        ld.param.u64 %rd1, [k_0];
        ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
        mov.u32 %r5, 7;
        mov.u32 %r20, %r4;
    OUTER:
        add.s32 %r6, %r1, %r2;
        setp.lt.s32 %p1, %r6, 9;
        @%p1 mov.u32 %r5, %r6;
        mul.wide.s32 %rd2, %r6, 4;
        add.s64 %rd3, %rd1, %rd2;
    INNER:
        ld.global.v2.u32 {%r7, %r8}, [%rd3];
        shfl.sync.bfly.b32 %r9, %r7, 1, 31, -1;
        setp.gt.s32 %p2, %r9, %r8;
        @%p2 bra INNER;
        add.s32 %r1, %r1, %r9;
        @%p1 bra SKIP;
        mov.b64 {%r10, %r11}, %rd3;
        mov.b64 %rd3, {%r11, %r10};
        add.s32 %r2, %r10, %r5;
    SKIP:
        add.s32 %r20, %r20, -1;
        setp.ne.s32 %p3, %r20, 0;
        @%p3 bra OUTER;
        st.global.v4.u32 [%rd3], {%r1, %r2, %r3, %r5};
        ret;
    }";

/// The kernels of a text as lowered, with their virtual registers, and after row allocation.
fn both(text: &str) -> Vec<(Kernel, Vec<Virtual>, Kernel)> {
    let mut lowered = Vec::new();
    let first = Program::load_and(text, |_, virtuals| lowered.push(virtuals)).unwrap();
    let second = Program::load(text).unwrap();
    first.kernels.into_iter().zip(lowered).zip(second.kernels).map(|((a, virtuals), b)| (a, virtuals, b)).collect()
}

/// The operands of an instruction as (register, use), without constants.
fn operands(kernel: &Kernel, at: usize, is_constant: impl Fn(Reg) -> bool) -> Vec<(Reg, Use)> {
    let mut found = Vec::new();
    each_register(&mut kernel.code[at].op.clone(), &mut kernel.lists.clone(), |reg, how| {
        if !is_constant(*reg) {
            found.push((*reg, how));
        }
    });
    found
}

/// Walks through both versions of the code, taking branches as `taken` says: every operand must come from the same
/// instruction in both.
fn walk(lowered: &Kernel, virtuals: &[Virtual], allocated: &Kernel, taken: &[bool]) {
    let first_constant = allocated.constants.iter().map(|(row, _)| row.0).min().unwrap_or(u32::MAX);
    let mut written = vec![None; virtuals.len()];
    let mut row_written = vec![None; allocated.rows as usize];
    let (mut at, mut steps) = (0, 0);
    let mut taken = taken.iter().cycle();
    while at < lowered.code.len() && steps < 5000 {
        steps += 1;
        let instruction = &lowered.code[at];
        let runs = instruction.guard == Guard::ALWAYS || *taken.next().unwrap();
        let before = operands(lowered, at, |reg| virtuals[reg.0 as usize].constant.is_some());
        let after = operands(allocated, at, |reg| reg.0 >= first_constant);
        assert_eq!(before.len(), after.len());
        let pairs = || before.iter().zip(&after).filter(|_| runs);
        for ((reg, _), (row, _)) in pairs().filter(|((_, how), _)| *how == Use::Read) {
            let value: Option<(usize, u32, usize)> = written[reg.0 as usize];
            if value.is_some() {
                let wide = virtuals[reg.0 as usize].kind.rows();
                for part in 0..wide {
                    let found = row_written[(row.0 + part) as usize];
                    assert_eq!(found, value, "instruction {at} reads {reg:?} from {row:?}: {:?}", instruction.op);
                }
            }
        }
        for (n, ((reg, _), (row, _))) in pairs().filter(|((_, how), _)| *how == Use::Write).enumerate() {
            let value = Some((at, reg.0, steps + n));
            written[reg.0 as usize] = value;
            for part in 0..virtuals[reg.0 as usize].kind.rows() {
                row_written[(row.0 + part) as usize] = value;
            }
        }
        at = match instruction.op {
            Op::Branch { target, .. } if runs => target as usize,
            Op::Exit if runs => return,
            _ => at + 1,
        };
    }
}

proptest! {
    #[test]
    fn row_allocation_preserves_values(taken in prop::collection::vec(any::<bool>(), 1..200)) {
        for text in [ADAMW, LOOPS, TANGLED] {
            for (lowered, virtuals, allocated) in both(text) {
                walk(&lowered, &virtuals, &allocated, &taken);
            }
        }
    }
}

#[test]
fn registers_share_rows() {
    for (text, most) in [(ADAMW, 60), (LOOPS, 40), (TANGLED, 20)] {
        for (_, virtuals, allocated) in both(text) {
            let constants: u32 = virtuals.iter().filter(|v| v.constant.is_some()).map(|v| v.kind.rows()).sum();
            let rows = allocated.rows - constants;
            assert!(
                rows <= most && allocated.registers <= rows,
                "{}: {rows} rows, {}",
                allocated.name,
                allocated.registers
            );
        }
    }
}

/// `%r1` … `%r4`, then `%r5` in the row of one of them: five values, of which four are live at once.
#[test]
fn an_estimate_by_hand() {
    let text = ".version 9.0 .target sm_80 .address_size 64 .entry k() { .reg .b32 %r<9>; .reg .b64 %rd<3>;
        ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [64];
        add.s32 %r5, %r1, %r2;
        st.global.v2.u32 [64], {%r3, %r4};
        cvt.u64.u32 %rd1, %r5;
        st.global.u64 [64], %rd1; }";
    let kernel = &Program::load(text).unwrap().kernels[0];
    // At the conversion, one register and one pair are live; at the load, four registers.
    assert_eq!((kernel.registers, kernel.rows), (4, 2 + 4 + 2));
}
