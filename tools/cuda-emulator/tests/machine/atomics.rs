//! `atom` and `red`: every operation on every type, in global and in shared memory (PTX ISA, `atom`).

use crate::fixture::Run;

/// (operation and type, old value, b, c, new value); values as bits.
fn cases() -> Vec<(&'static str, u64, u64, u64, u64)> {
    let f = |x: f32| u64::from(x.to_bits());
    let d = |x: f64| x.to_bits();
    let h = |low: f32, high: f32| {
        u64::from(half::f16::from_f32(low).to_bits()) | u64::from(half::f16::from_f32(high).to_bits()) << 16
    };
    let b = |low: f32, high: f32| {
        u64::from(half::bf16::from_f32(low).to_bits()) | u64::from(half::bf16::from_f32(high).to_bits()) << 16
    };
    vec![
        ("add.u32", 0xffff_ffff, 2, 0, 1),
        ("add.s32", 5, 0xffff_fff0, 0, 0xffff_fff5),
        ("add.u64", 0xffff_ffff, 2, 0, 0x1_0000_0001),
        ("add.f32", f(1.5), f(2.25), 0, f(3.75)),
        ("add.f64", d(1.5), d(2.25), 0, d(3.75)),
        ("add.noftz.f16x2", h(1.0, 2.0), h(0.5, -4.0), 0, h(1.5, -2.0)),
        ("add.noftz.bf16x2", b(1.0, 2.0), b(0.5, -4.0), 0, b(1.5, -2.0)),
        ("add.noftz.f16", h(1.0, 0.0), h(0.5, 0.0), 0, h(1.5, 0.0)),
        ("add.noftz.bf16", b(1.0, 0.0), b(0.5, 0.0), 0, b(1.5, 0.0)),
        ("cas.b16", 5, 5, 9, 9),
        ("cas.b16", 5, 4, 9, 5),
        ("min.u32", 7, 0xffff_fff0, 0, 7),
        ("min.s32", 7, 0xffff_fff0, 0, 0xffff_fff0),
        ("max.u32", 7, 0xffff_fff0, 0, 0xffff_fff0),
        ("max.s32", 7, 0xffff_fff0, 0, 7),
        ("min.u64", 7, 1 << 63, 0, 7),
        ("min.s64", 7, 1 << 63, 0, 1 << 63),
        ("max.u64", 7, 1 << 63, 0, 1 << 63),
        ("max.s64", 7, 1 << 63, 0, 7),
        ("and.b32", 0b1100, 0b1010, 0, 0b1000),
        ("or.b32", 0b1100, 0b1010, 0, 0b1110),
        ("xor.b32", 0b1100, 0b1010, 0, 0b0110),
        ("and.b64", 0b1100 << 40, 0b1010 << 40, 0, 0b1000 << 40),
        ("or.b64", 0b1100 << 40, 0b1010 << 40, 0, 0b1110 << 40),
        ("xor.b64", 0b1100 << 40, 0b1010 << 40, 0, 0b0110 << 40),
        ("exch.b32", 5, 6, 0, 6),
        ("exch.b64", 5, 6 << 40, 0, 6 << 40),
        ("cas.b32", 5, 5, 9, 9),
        ("cas.b32", 5, 4, 9, 5),
        ("cas.b64", 5 << 40, 5 << 40, 9, 9),
        ("cas.b64", 5 << 40, 5, 9, 5 << 40),
        ("inc.u32", 4, 5, 0, 5),
        ("inc.u32", 5, 5, 0, 0),
        ("dec.u32", 4, 5, 0, 3),
        ("dec.u32", 0, 5, 0, 5),
        ("dec.u32", 9, 5, 0, 5),
    ]
}

/// Runs the operation in lane 0; returns the value before and the value after.
fn run(space: &str, f: &str, [old, b, c]: [u64; 3]) -> [u64; 2] {
    let (kind, register, bytes) = match f {
        _ if f.ends_with("64") => ("u64", "%d", 8),
        "add.noftz.f16" | "add.noftz.bf16" | "cas.b16" => ("u16", "%h", 2),
        _ => ("u32", "%r", 4),
    };
    let (op, of) = f.split_once('.').unwrap();
    let third = if op == "cas" { format!(", {register}3") } else { String::new() };
    let address = if space == "shared" { "%d9" } else { "%out" };
    let base = if space == "shared" { "mov.u64 %d9, box;" } else { "" };
    let body = format!(
        "setp.ne.u32 %p1, %t, 0;
         @%p1 ret;
         {base}
         ld.global.{kind} {register}1, [%in];
         ld.global.{kind} {register}2, [%in+16];
         ld.global.{kind} {register}3, [%in+32];
         st.{space}.{kind} [{address}], {register}1;
         atom.{space}.{op}.{of} {register}4, [{address}], {register}2{third};
         ld.{space}.{kind} {register}5, [{address}];
         st.global.{kind} [%out], {register}4;
         st.global.{kind} [%out+8], {register}5;"
    );
    let run = Run { outside: ".shared .align 8 .b8 box[8];", target: "sm_90", ..Run::new(&body) };
    let input: Vec<[u64; 2]> = [old, b, c].iter().map(|x| [*x, 0]).collect();
    let out = run.with(&input).unwrap_or_else(|fault| panic!("{space} {f}: {fault}"))[0];
    let value = |at: usize| out[at..at + bytes].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    [value(0), value(8)]
}

#[test]
fn every_operation_gives_the_old_value_and_leaves_the_new() {
    for (f, old, b, c, new) in cases() {
        for space in ["global", "shared"] {
            assert_eq!(run(space, f, [old, b, c]), [old, new], "atom.{space}.{f} {old:#x} {b:#x} {c:#x}");
        }
    }
}

#[test]
fn lanes_of_a_warp_and_blocks_add_up() {
    let body = "atom.global.add.u32 %r1, [%out0+4], %t;
                red.global.add.u32 [%out0+8], 1;
                red.global.max.u32 [%out0+12], %t;";
    let run = Run { threads: 96, blocks: 5, seed: Some(3), ..Run::new(body) };
    let out = run.with::<u32>(&[]).unwrap_or_else(|fault| panic!("{fault}"))[0];
    let words: &[u32] = bytemuck::cast_slice(&out);
    assert_eq!(words, [0, 5 * (95 * 96 / 2), 5 * 96, 95]);
}
