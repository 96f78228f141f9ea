//! What lowered code computes: a machine with one thread runs it, and its results are compared with independent values.
//!
//! This shows that calls, carries and comparisons are right after lowering and row allocation. The real machine has its
//! own tests.

use std::collections::HashMap;

use super::{Access, Constant, Instruction, Kernel, Op, Pred, PredicateLogic, Program, Reg};
use crate::forms::{Row, Rows};

const CALLS: &str = include_str!("../../tests/fixtures/calls-80.ptx");
/// Addresses of the symbols and of a kernel's two buffers.
const SYMBOLS: u64 = 0x1_0000_0000;
const OUT: u64 = 0x2_0000_0000;
const IN: u64 = 0x3_0000_0000;

struct Thread {
    rows: Vec<Row>,
    predicates: Vec<bool>,
    memory: HashMap<u64, u8>,
}

impl Thread {
    fn new(program: &Program, kernel: &Kernel) -> Thread {
        let mut predicates = vec![false; kernel.predicates as usize];
        predicates[0] = true;
        let rows = vec![Row([0xdead_beef; 32]); kernel.rows as usize];
        let mut thread = Thread { rows, predicates, memory: HashMap::new() };
        for (n, symbol) in (0..).zip(&program.symbols) {
            thread.fill(SYMBOLS + (n << 20), symbol.bytes.as_deref().unwrap_or(&[]));
        }
        for (row, constant) in &kernel.constants {
            let bits = match *constant {
                Constant::Bits32(bits) => bits as u64,
                Constant::Bits64(bits) => bits,
                Constant::Symbol(index, offset) => SYMBOLS + ((index as u64) << 20) + offset as u64,
                Constant::Local64(offset) => offset as u64,
                other => panic!("no value for {other:?}"),
            };
            thread.write(*row, bits, constant.kind().rows() as u8 * 4);
        }
        thread
    }

    fn fill(&mut self, address: u64, bytes: &[u8]) {
        self.memory.extend((address..).zip(bytes.iter().copied()));
    }

    fn bytes(&self, address: u64, n: u64) -> Vec<u8> {
        (address..address + n).map(|at| *self.memory.get(&at).expect("nothing was written here")).collect()
    }

    /// Lane 0 of a register with `bytes` bytes.
    fn read(&self, reg: Reg, bytes: u8) -> u64 {
        let row = &self.rows[reg.0 as usize].0;
        match bytes {
            8 => row[0] as u64 | (row[1] as u64) << 32,
            2 => row[0] as u64 & 0xffff,
            _ => row[0] as u64,
        }
    }

    fn write(&mut self, reg: Reg, value: u64, bytes: u8) {
        let row = &mut self.rows[reg.0 as usize].0;
        row[0] = if bytes == 2 { value as u32 & 0xffff } else { value as u32 };
        if bytes == 8 {
            row[1] = (value >> 32) as u32;
        }
    }

    fn load(&mut self, access: &Access, d: &[Reg], bytes: &[u8]) {
        for (reg, element) in d.iter().zip(bytes.chunks(access.bytes as usize)).filter(|(reg, _)| **reg != Reg::NONE) {
            let mut wide = [0; 8];
            wide[..element.len()].copy_from_slice(element);
            self.write(*reg, u64::from_le_bytes(wide), access.register);
        }
    }

    fn logic(&self, f: PredicateLogic, a: bool, b: Pred, negated: bool) -> bool {
        let b = self.predicates[b.0 as usize] != negated;
        match f {
            PredicateLogic::And => a && b,
            PredicateLogic::Or => a || b,
            PredicateLogic::Xor => a != b,
            PredicateLogic::Not => !a,
            PredicateLogic::Move => a,
        }
    }

    fn set(&mut self, p: Pred, value: bool) {
        if p != Pred::NONE {
            self.predicates[p.0 as usize] = value;
        }
    }

    fn run(&mut self, kernel: &Kernel, parameters: &[u8]) {
        let mut at = 0;
        for _ in 0..100_000 {
            let Instruction { op, guard, .. } = &kernel.code[at];
            at += 1;
            if self.predicates[guard.predicate.0 as usize] == guard.negated {
                continue;
            }
            match op {
                Op::Exit => return,
                Op::Branch { target, .. } => at = *target as usize,
                op => self.step(kernel, op, parameters),
            }
        }
        panic!("the kernel does not end");
    }

    fn step(&mut self, kernel: &Kernel, op: &Op, parameters: &[u8]) {
        match op {
            // SAFETY: the operands are inside the kernel's rows, and find() chooses the variant for this processor.
            Op::Compute { run, operands } => unsafe { run(Rows::new(&mut self.rows), *operands, 1) },
            Op::Compare { run, a, b, p, q, combine } => {
                // SAFETY: as above.
                let test = unsafe { run(Rows::new(&mut self.rows), *a, *b) } & 1 == 1;
                self.set(*p, self.logic(combine.f, test, combine.with, combine.negated));
                self.set(*q, self.logic(combine.f, !test, combine.with, combine.negated));
            }
            Op::Select32 { d, a, b, p } | Op::Select64 { d, a, b, p } => {
                let bytes = if matches!(op, Op::Select64 { .. }) { 8 } else { 4 };
                let from = if self.predicates[p.0 as usize] { a } else { b };
                self.write(*d, self.read(*from, bytes), bytes);
            }
            Op::PredicateLogic { f, d, a, b } => {
                self.set(*d, self.logic(*f, self.predicates[a.0 as usize], *b, false));
            }
            Op::LoadParameter { access, d, offset } => {
                self.load(access, kernel.list(*d), &parameters[*offset as usize..]);
            }
            Op::Load { access, d, address } => {
                let from = self.read(address.base, 8).wrapping_add_signed(address.offset as i64);
                let bytes = self.bytes(from, access.bytes as u64 * d.len as u64);
                self.load(access, kernel.list(*d), &bytes);
            }
            Op::Store { access, a, address } => {
                let mut to = self.read(address.base, 8).wrapping_add_signed(address.offset as i64);
                for reg in kernel.list(*a) {
                    let value = self.read(*reg, access.register).to_le_bytes();
                    self.fill(to, &value[..access.bytes as usize]);
                    to += access.bytes as u64;
                }
            }
            Op::ConvertAddress { d, a, .. } => self.write(*d, self.read(*a, 8), 8),
            other => panic!("this machine has no {other:?}"),
        }
    }
}

/// Runs a kernel with two buffers and optional further parameters; returns what it writes to the first buffer.
fn run(program: &Program, name: &str, input: &[u8], more: &[u8], n: u64) -> Vec<u8> {
    let kernel = program.kernel(name).unwrap();
    let mut thread = Thread::new(program, kernel);
    thread.fill(IN, input);
    let parameters = [&OUT.to_le_bytes(), &IN.to_le_bytes(), more].concat();
    thread.run(kernel, &parameters);
    thread.bytes(OUT, n)
}

fn f64s(bytes: &[u8]) -> f64 {
    f64::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn power_is_a_call() {
    let program = Program::load(CALLS).unwrap();
    for (x, y) in [(1.5_f64, 2.5_f64), (10.0, -3.0), (0.999, 1000.0), (-2.0, 3.0), (2.0, 0.5)] {
        let input = [x.to_le_bytes(), y.to_le_bytes()].concat();
        let found = f64s(&run(&program, "power", &input, &(IN + 8).to_le_bytes(), 8));
        let expected = x.powf(y);
        assert!((found / expected - 1.0).abs() < 4.0 * f64::EPSILON, "{x} to the {y}: {found}, not {expected}");
    }
    let input = [(-2.0_f64).to_le_bytes(), 0.5_f64.to_le_bytes()].concat();
    assert!(f64s(&run(&program, "power", &input, &(IN + 8).to_le_bytes(), 8)).is_nan());
}

#[test]
fn sine_of_large_angles_is_a_call_with_carries() {
    let program = Program::load(CALLS).unwrap();
    // sin(10^22) is the test of W. Kahan: 10^22 is exactly a double, and its reduction needs 1/pi to 130 bits.
    for (x, expected) in
        [(1e22_f64, -0.852_200_849_767_188_8), (0.5, 0.5_f64.sin()), (-1e7, (-1e7_f64).sin()), (0.0, 0.0)]
    {
        let found = f64s(&run(&program, "sine", &x.to_le_bytes(), &[], 8));
        assert!((found - expected).abs() < 3e-16, "sin({x}): {found}, not {expected}");
    }
}

#[test]
fn structs_pass_through_calls() {
    let program = Program::load(CALLS).unwrap();
    let pair = |first: i64, second: i32| [&first.to_le_bytes()[..], &second.to_le_bytes(), &[0; 4]].concat();
    let input = [pair(-7, 100), pair(3, 30)].concat();
    for (which, expected) in [(0_i32, pair(-63, 40)), (2, pair(-21, 70)), (3, pair(-7, 100))] {
        let found = run(&program, "pairs", &input, &which.to_le_bytes(), 12);
        assert_eq!(found, expected[..12], "{which}");
    }
}

#[test]
fn wide_integers() {
    let program = Program::load(CALLS).unwrap();
    let (a, b) = (-0x0123_4567_89ab_cdef_ffff_ffff_ffff_fff0_i128, 0x7fff_ffff_0000_0001_8000_0000_0000_0011_i128);
    let input = [a.to_le_bytes(), b.to_le_bytes()].concat();
    let expected = [a.wrapping_add(b), a.wrapping_sub(b), a.wrapping_mul(b)].map(i128::to_le_bytes).concat();
    assert_eq!(run(&program, "wide", &input, &[], 48), expected);
    for (a, b) in [(u128::MAX, 1_u128), (0, 1), (1 << 96, 1 << 32), (0xffff_ffff, 0xffff_ffff_0000_0001)] {
        let input = [a.to_le_bytes(), b.to_le_bytes()].concat();
        let expected = [a.wrapping_add(b), a.wrapping_sub(b)].map(u128::to_le_bytes).concat();
        assert_eq!(run(&program, "carries", &input, &[], 32), expected, "{a:x} and {b:x}");
    }
}

/// Statements that write `%r1`, and the expected values.
#[test]
fn comparisons_into_registers() {
    for (statements, expected) in [
        ("set.lt.u32.s32 %r1, -1, 1;", 0xffff_ffff),
        ("set.lt.u32.u32 %r1, -1, 1;", 0),
        ("set.ge.f32.f32 %r1, 0f40000000, 0f3F800000;", 0x3f80_0000),
        // 1.0 | 2.0 against 1.0 | 3.0 as bf16: the low halves are equal.
        ("set.eq.bf16x2.bf16x2 %r1, 0x40003F80, 0x40403F80;", 0x0000_3f80),
        ("set.lt.u32.bf16x2 %r1, 0x40003F80, 0x40403F80;", 0xffff_0000),
        ("set.lt.f16x2.f16x2 %r1, 0x3C00BC00, 0x3C003C00;", 0x0000_3c00),
        ("setp.lt.f16x2 %p1|%p2, 0x3C00BC00, 0x3C003C00; selp.b32 %r1, 7, 9, %p1;", 7),
        ("setp.lt.f16x2 %p1|%p2, 0x3C00BC00, 0x3C003C00; selp.b32 %r1, 7, 9, %p2;", 9),
        ("setp.eq.s32 %p1, 0, 1; set.eq.or.u32.s32 %r1, 5, 6, !%p1;", 0xffff_ffff),
        ("setp.eq.s32 %p1|%p2, 0, 1; and.pred %p3, %p2, !%p1; selp.b32 %r1, 7, 9, %p3;", 7),
        ("mov.pred %p1, 0; selp.b32 %r1, 7, 9, !%p1;", 7),
        ("mov.b64 %rd1, {1, 2}; mov.b64 {_, %r1}, %rd1;", 2),
        (
            "mov.u64 %rd1, 0x1234000500060007; mov.b64 {%rs1, %rs2, %rs3, %rs4}, %rd1; mov.b32 %r1, {%rs4, %rs3};",
            0x0005_1234,
        ),
        ("mov.b64 %rd1, {%rs1, %rs2, 3, 4}; shr.u64 %rd1, %rd1, 32; cvt.u32.u64 %r1, %rd1;", 0x0004_0003),
        ("mov.u64 %rd1, 0x1ff; cvt.s32.s8 %r1, %rd1;", 0xffff_ffff),
        ("mov.u32 %r1, WARP_SZ;", 32),
        ("{ .reg .b32 %r<3>; mov.u32 %r1, 5; } mov.u32 %r1, 6; { .reg .b32 %r<3>; mov.u32 %r1, 7; }", 6),
    ] {
        let text = format!(
            ".version 9.0 .target sm_90a .address_size 64 .entry k(.param .u64 out, .param .u64 in) {{ .reg .pred %p<4>;
            .reg .b16 %rs<5>; .reg .b32 %r<4>; .reg .b64 %rd<3>; mov.u16 %rs1, 1; mov.u16 %rs2, 2; {statements}
            ld.param.u64 %rd2, [out]; st.global.u32 [%rd2], %r1; ret; }}"
        );
        let program = Program::load(&text).unwrap_or_else(|error| panic!("{statements}: {error}"));
        let found = run(&program, "k", &[], &[], 4);
        assert_eq!(found, u32::to_le_bytes(expected), "{statements}");
    }
}
