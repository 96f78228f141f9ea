//! Results computed by hand from the definitions of the formats and the ISA. They also check the references.

use super::*;

/// A form, its sources and its result.
type Case = (&'static str, &'static [u64], u64);

const CASES: &[Case] = &[
    // 1 + 2^-24 is half way between 1 and the next f32: rounded to even, up or down.
    ("add.f32", &[0x3f80_0000, 0x3380_0000], 0x3f80_0000),
    ("add.rp.f32", &[0x3f80_0000, 0x3380_0000], 0x3f80_0001),
    ("add.rz.f32", &[0xbf80_0000, 0xb380_0000], 0xbf80_0000),
    ("add.rm.f32", &[0xbf80_0000, 0xb380_0000], 0xbf80_0001),
    // 1 - 1 is +0, and -0 when rounding down.
    ("sub.rn.f32", &[0x3f80_0000, 0x3f80_0000], 0),
    ("sub.rm.f32", &[0x3f80_0000, 0x3f80_0000], 0x8000_0000),
    ("add.f32", &[0x7f80_0000, 0xff80_0000], 0x7fff_ffff),
    // (1 + 2^-12)^2 - (1 + 2^-11) = 2^-24 survives only in a fused operation.
    ("fma.rn.f32", &[0x3f80_0800, 0x3f80_0800, 0xbf80_1000], 0x3380_0000),
    // Half of the smallest normal number: a subnormal, which .ftz flushes.
    ("mul.f32", &[0x0080_0000, 0x3f00_0000], 0x0040_0000),
    ("mul.ftz.f32", &[0x8080_0000, 0x3f00_0000], 0x8000_0000),
    ("add.sat.f32", &[0x3f80_0000, 0x3f80_0000], 0x3f80_0000),
    ("add.sat.f32", &[0x7fc0_0000, 0x3f80_0000], 0),
    // 1 / 3 = 0x3eaaaaaa.aaa…: rounded up to nearest, otherwise down.
    ("div.rn.f32", &[0x3f80_0000, 0x4040_0000], 0x3eaa_aaab),
    ("div.rz.f32", &[0x3f80_0000, 0x4040_0000], 0x3eaa_aaaa),
    ("rcp.rp.f32", &[0x4040_0000], 0x3eaa_aaab),
    ("sqrt.rn.f32", &[0x4000_0000], 0x3fb5_04f3),
    ("div.approx.f32", &[0x4000_0000, 0x7f00_0000], 0),
    ("min.f32", &[0x8000_0000, 0], 0x8000_0000),
    ("max.f32", &[0x8000_0000, 0], 0),
    ("max.f32", &[0x7fc0_0000, 0xbf80_0000], 0xbf80_0000),
    ("max.NaN.f32", &[0x7fc0_0000, 0xbf80_0000], 0x7fff_ffff),
    ("ex2.approx.f32", &[0x4040_0000], 0x4100_0000),
    ("ex2.approx.ftz.f32", &[0xff80_0000], 0),
    ("lg2.approx.f32", &[0x4100_0000], 0x4040_0000),
    ("lg2.approx.f32", &[0], 0xff80_0000),
    ("rsqrt.approx.f32", &[0x4080_0000], 0x3f00_0000),
    // f64: 2^53 + 1 is half way.
    ("add.rn.f64", &[0x4340_0000_0000_0000, 0x3ff0_0000_0000_0000], 0x4340_0000_0000_0000),
    ("add.rp.f64", &[0x4340_0000_0000_0000, 0x3ff0_0000_0000_0000], 0x4340_0000_0000_0001),
    ("add.rz.f64", &[0x3ff0_0000_0000_0000, 0xbc00_0000_0000_0000], 0x3fef_ffff_ffff_ffff),
    ("mul.rp.f64", &[0x0000_0000_0000_0001, 0x3fe0_0000_0000_0000], 1),
    ("mul.rz.f64", &[0x7fef_ffff_ffff_ffff, 0x4000_0000_0000_0000], 0x7fef_ffff_ffff_ffff),
    // f16: 2048 + 1 is half way; bf16: 256 + 1.
    ("add.f16", &[0x6800, 0x3c00], 0x6800),
    ("add.f16", &[0x6800, 0x4200], 0x6802),
    ("add.rn.bf16", &[0x4380, 0x3f80], 0x4380),
    ("fma.rn.relu.bf16", &[0xbf80, 0x3f80, 0x3f00], 0),
    // The low half is 1 + 2, the high half 3 * 1.
    ("add.f16x2", &[0x4000_3c00, 0x3c00_4000], 0x4200_4200),
    // Conversions. 1 + 2^-8 is half way between bf16 numbers, and so is 1 + 3 * 2^-8.
    ("cvt.rn.bf16.f32", &[0x3f80_8000], 0x3f80),
    ("cvt.rn.bf16.f32", &[0x3f81_8000], 0x3f82),
    ("cvt.rz.bf16.f32", &[0x3f81_ffff], 0x3f81),
    ("cvt.rn.bf16.f32", &[0x7f7f_ffff], 0x7f80),
    ("cvt.rn.bf16x2.f32", &[0x3f80_0000, 0xc000_0000], 0x3f80_c000),
    ("cvt.rn.f16.f32", &[0x477f_f000], 0x7c00),
    ("cvt.rz.f16.f32", &[0x477f_f000], 0x7bff),
    ("cvt.rn.f16.f32", &[0x3300_0000], 0),
    ("cvt.rn.f16.f32", &[0x3300_0001], 1),
    ("cvt.f32.f16", &[1], 0x3380_0000),
    ("cvt.f32.f16", &[0xfc00], 0xff80_0000),
    ("cvt.rna.tf32.f32", &[0x3f80_1000], 0x3f80_2000),
    ("cvt.rn.tf32.f32", &[0x3f80_1000], 0x3f80_0000),
    ("cvt.rni.s32.f32", &[0x4020_0000], 2),
    ("cvt.rmi.s32.f32", &[0xbf00_0000], 0xffff_ffff),
    ("cvt.rzi.u32.f32", &[0xbf80_0000], 0),
    ("cvt.rzi.s32.f32", &[0x7fc0_0000], 0),
    ("cvt.rzi.s32.f32", &[0x5000_0000], 0x7fff_ffff),
    ("cvt.rzi.s64.f32", &[0x7fc0_0000], 0x8000_0000_0000_0000),
    ("cvt.rzi.s32.f64", &[0x7ff8_0000_0000_0000], 0x8000_0000),
    ("cvt.rn.f32.s32", &[0x0100_0001], 0x4b80_0000),
    ("cvt.rp.f32.s32", &[0x0100_0001], 0x4b80_0001),
    ("cvt.rn.f32.u64", &[0x0100_0001_0000_0001], 0x5b80_0001),
    ("cvt.rz.f64.u64", &[0xffff_ffff_ffff_ffff], 0x43ef_ffff_ffff_ffff),
    ("cvt.s64.s32", &[0xffff_fffe], 0xffff_ffff_ffff_fffe),
    ("cvt.u64.u32", &[0xffff_fffe], 0xffff_fffe),
    ("cvt.s8.s32", &[0x80], 0xff80),
    ("cvt.sat.u8.s32", &[0xffff_ff80], 0),
    ("cvt.sat.f32.f32", &[0xc000_0000], 0),
    // Integers.
    ("mul.wide.s32", &[0xffff_ffff, 2], 0xffff_ffff_ffff_fffe),
    ("mul.wide.u32", &[0xffff_ffff, 2], 0x1_ffff_fffe),
    ("mul.hi.u64", &[0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff], 0xffff_ffff_ffff_fffe),
    ("mul.hi.s64", &[0xffff_ffff_ffff_ffff, 2], 0xffff_ffff_ffff_ffff),
    ("mad.lo.s32", &[3, 0xffff_ffff, 10], 7),
    ("div.s32", &[0xffff_fff9, 2], 0xffff_fffd),
    ("rem.s32", &[0xffff_fff9, 2], 0xffff_ffff),
    ("div.s32", &[0x8000_0000, 0xffff_ffff], 0x8000_0000),
    ("add.sat.s32", &[0x7fff_ffff, 1], 0x7fff_ffff),
    ("dp4a.s32.s32", &[0x0102_03ff, 0x0101_0102, 100], 104),
    ("dp2a.hi.u32.u32", &[0x0002_0003, 0x0504_0000, 1], 23),
    // Bits.
    ("shl.b32", &[1, 32], 0),
    ("shr.s32", &[0x8000_0000, 99], 0xffff_ffff),
    ("shr.u64", &[0x8000_0000_0000_0000, 63], 1),
    ("shf.l.wrap.b32", &[0x8000_0001, 0x7000_0000, 4], 0x8),
    ("shf.r.clamp.b32", &[0x8000_0001, 0x7000_0000, 32], 0x7000_0000),
    // Choice 11 is the sign of byte 3 (0x44), 15 that of byte 7 (0x88).
    ("prmt.b32", &[0x4433_2211, 0x8877_6655, 0x0000_75fb], 0x8866_ff00),
    ("prmt.b32", &[0x4433_2211, 0x8877_6655, 0x0000_3726], 0x4488_3377),
    ("lop3.b32", &[0xf0f0_f0f0, 0xcccc_cccc, 0xaaaa_aaaa, 0x96], 0x9696_9696),
    ("bfe.s32", &[0x0000_0f80, 7, 5], 0xffff_ffff),
    ("bfe.u32", &[0x0000_0f80, 7, 5], 0x1f),
    ("bfi.b32", &[0x3, 0xffff_ffff, 4, 4], 0xffff_ff3f),
    ("bfind.s32", &[0xffff_fff0], 3),
    ("bfind.u32", &[0], 0xffff_ffff),
    ("clz.b64", &[1], 63),
    ("popc.b32", &[0xf0f0_0001], 9),
    ("brev.b32", &[1], 0x8000_0000),
    ("copysign.f32", &[0x8000_0000, 0x3f80_0000], 0xbf80_0000),
    ("pack.b64.b32", &[1, 2], 0x2_0000_0001),
    ("carry3.u32", &[0xffff_ffff, 0xffff_ffff, 1], 1),
    ("borrow3.u64", &[0, 0, 1], 1),
];

#[test]
fn results_by_hand() {
    for table in tables() {
        for (name, sources, expected) in CASES {
            let types = reference(name).expect(name).sources;
            let got = run(&table, name, &types, &[sources.to_vec()], u32::MAX, None);
            assert!(
                got.iter().all(|got| got == expected),
                "{name} of {sources:x?}: {:x}, expected {expected:x}",
                got[31]
            );
        }
    }
}
