//! Loads and stores of every width, sign, vector and space, and the faults of invalid ones.

use cuda_emulator::fault::FaultKind;

use crate::fixture::Run;

/// The output of lane 0.
fn first(body: &str, input: &[u8]) -> [u8; 16] {
    let body = format!("setp.ne.u32 %p1, %t, 0; @%p1 ret;\n{body}");
    let run = Run { outside: "", ..Run::new(&body) };
    run.with(input).unwrap_or_else(|fault| panic!("{fault}\n{body}"))[0]
}

fn words(bytes: [u8; 16]) -> [u32; 4] {
    bytemuck::cast(bytes)
}

const INPUT: [u8; 16] = [0x81, 0x92, 0xa3, 0xb4, 0xc5, 0xd6, 0xe7, 0xf8, 9, 10, 11, 12, 13, 14, 15, 16];

#[test]
fn loads_extend_as_their_type_says() {
    let cases: [(&str, &str, u64); 12] = [
        ("ld.global.u8 %r1", "u32 [%out], %r1", 0x81),
        ("ld.global.s8 %r1", "u32 [%out], %r1", 0xffff_ff81),
        ("ld.global.u16 %r1", "u32 [%out], %r1", 0x9281),
        ("ld.global.s16 %r1", "u32 [%out], %r1", 0xffff_9281),
        ("ld.global.u32 %r1", "u32 [%out], %r1", 0xb4a3_9281),
        ("ld.global.s32 %d1", "u64 [%out], %d1", 0xffff_ffff_b4a3_9281),
        ("ld.global.u32 %d1", "u64 [%out], %d1", 0xb4a3_9281),
        ("ld.global.s8 %d1", "u64 [%out], %d1", 0xffff_ffff_ffff_ff81),
        ("ld.global.u64 %d1", "u64 [%out], %d1", 0xf8e7_d6c5_b4a3_9281),
        ("ld.global.nc.u16 %h1", "u16 [%out], %h1", 0x9281),
        ("ld.global.s8 %h1", "u16 [%out], %h1", 0xff81),
        ("ld.volatile.global.f32 %f1", "f32 [%out], %f1", 0xb4a3_9281),
    ];
    for (load, store, expected) in cases {
        let out = first(&format!("{load}, [%in];\nst.global.{store};"), &INPUT);
        assert_eq!(u64::from_le_bytes(*out.first_chunk().unwrap()), expected, "{load}");
    }
    let narrow = first("ld.global.u32 %r1, [%in]; st.global.u8 [%out+1], %r1; st.global.u16 [%out+4], %r1;", &INPUT);
    assert_eq!(narrow[..8], [0, 0x81, 0, 0, 0x81, 0x92, 0, 0]);
}

#[test]
fn vectors_keep_their_order() {
    let copy = [
        "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%in]; st.global.v4.u32 [%out], {%r1, %r2, %r3, %r4};",
        "ld.global.v2.u64 {%d1, %d2}, [%in]; st.global.v2.u64 [%out], {%d1, %d2};",
        "ld.global.v2.u32 {%r1, %r2}, [%in]; ld.global.v2.u32 {%r3, %r4}, [%in+8];
         st.global.v2.u32 [%out], {%r1, %r2}; st.global.v2.u32 [%out+8], {%r3, %r4};",
        "ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%in]; ld.global.v4.u16 {%h5, %h6, %h7, %h8}, [%in+8];
         st.global.v4.u16 [%out], {%h1, %h2, %h3, %h4}; st.global.v4.u16 [%out+8], {%h5, %h6, %h7, %h8};",
        "ld.global.v4.u32 {%r4, %r3, %r2, %r1}, [%in]; st.global.v4.u32 [%out], {%r4, %r3, %r2, %r1};",
    ];
    for body in copy {
        assert_eq!(first(body, &INPUT), INPUT, "{body}");
    }
    let swapped = "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%in]; st.global.v4.u32 [%out], {%r4, %r3, %r2, %r1};";
    let [a, b, c, d] = words(INPUT);
    assert_eq!(words(first(swapped, &INPUT)), [d, c, b, a]);
}

#[test]
fn every_space_through_its_own_and_generic_addresses() {
    let body = "ld.global.u32 %r1, [%in];
                mov.u64 %d1, box;
                st.shared.u32 [%d1+4], %r1;
                cvta.shared.u64 %d2, %d1;
                ld.u32 %r2, [%d2+4];
                mov.u64 %d3, own;
                add.u32 %r2, %r2, 1;
                st.local.u32 [%d3], %r2;
                cvta.local.u64 %d4, %d3;
                ld.u32 %r3, [%d4];
                mov.u64 %d5, table;
                ld.const.u32 %r4, [%d5+8];
                add.u32 %r3, %r3, %r4;
                cvta.global.u64 %d6, %out;
                st.u32 [%d6], %r3;
                cvta.to.shared.u64 %d7, %d2;
                sub.u64 %d7, %d7, %d1;
                st.global.u64 [%out+8], %d7;";
    let body = format!(".local .align 8 .b8 own[8];\nsetp.ne.u32 %p1, %t, 0; @%p1 ret;\n{body}");
    let outside = ".shared .align 8 .b8 box[16];\n.const .align 4 .u32 table[3] = {100, 200, 300};";
    let out = Run { outside, ..Run::new(&body) }.with(&[41u32]).unwrap_or_else(|f| panic!("{f}"))[0];
    assert_eq!(words(out), [342, 0, 0, 0]);
}

/// Lanes of one instruction may access different spaces.
#[test]
fn generic_addresses_are_resolved_per_lane() {
    let body = "mov.u64 %d1, box;
                mul.wide.u32 %d9, %t, 4;
                add.u64 %d1, %d1, %d9;
                add.u32 %r1, %t, 500;
                st.shared.u32 [%d1], %r1;
                cvta.shared.u64 %d2, %d1;
                cvta.global.u64 %d3, %in;
                and.b32 %r2, %t, 1;
                setp.eq.u32 %p1, %r2, 0;
                selp.b64 %d4, %d2, %d3, %p1;
                ld.u32 %r3, [%d4];
                st.global.u32 [%out], %r3;";
    let run = Run { outside: ".shared .align 8 .b8 box[128];", ..Run::new(body) };
    let input: Vec<[u32; 4]> = (0..32).map(|l| [9000 + l, 0, 0, 0]).collect();
    let expected: Vec<u32> = (0..32).map(|l| if l % 2 == 0 { 500 + l } else { 9000 + l }).collect();
    assert_eq!(run.words(&input), expected);
}

#[test]
fn mistakes_are_named_with_lane_and_address() {
    let cases = [
        ("add.u64 %d1, %in, 1; ld.global.u32 %r1, [%d1];", FaultKind::Misaligned, "not a multiple of 4"),
        ("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%in+8];", FaultKind::Misaligned, "not a multiple of 16"),
        ("ld.global.u32 %r1, [%in+512];", FaultKind::IllegalAddress, "past the end of the allocation of 512 bytes"),
        ("st.global.u32 [%in0+-8], %t;", FaultKind::IllegalAddress, "a write of 4 bytes"),
        ("mov.u64 %d1, 0; ld.global.u32 %r1, [%d1];", FaultKind::IllegalAddress, "before the allocation"),
        ("mov.u64 %d1, box; ld.shared.u32 %r1, [%d1];", FaultKind::Uninitialised, "never written"),
        ("mov.u64 %d1, box; st.shared.u32 [%d1+16], %t;", FaultKind::IllegalAddress, "of which the block has 16 bytes"),
        ("mov.u64 %d1, own; ld.local.u32 %r1, [%d1];", FaultKind::Uninitialised, "never written"),
        ("mov.u64 %d1, own; st.local.u32 [%d1+8], %t;", FaultKind::IllegalAddress, "of the 8 bytes of local memory"),
        ("add.u64 %d1, %in, 2; red.global.add.u32 [%d1], 1;", FaultKind::Misaligned, "not a multiple"),
    ];
    for (body, kind, message) in cases {
        let body = format!(".local .align 8 .b8 own[8];\nsetp.lt.u32 %p1, %t, 31; @%p1 ret;\n{body}");
        let fault = Run { outside: ".shared .align 8 .b8 box[16];", ..Run::new(&body) }.fault();
        assert_eq!(fault.kind, kind, "{body}: {fault}");
        assert!(fault.to_string().contains(message), "{body}: {fault}");
        assert_eq!(fault.thread, [31, 0, 0], "{body}: {fault}");
    }
}

/// Every block writes its element; the last block to count adds them up.
#[test]
fn the_last_block_may_read_what_the_others_released() {
    let body = |fence: &str| {
        format!(
            "setp.ne.u32 %p1, %t, 0; @%p1 ret;
             mov.u32 %r1, %ctaid.x;
             mul.wide.u32 %d1, %r1, 4;
             add.u64 %d1, %d1, %in0;
             add.u32 %r2, %r1, 1;
             st.global.u32 [%d1+16], %r2;
             {fence}
             atom.global.add.u32 %r3, [%in0], 1;
             setp.ne.u32 %p1, %r3, 3; @%p1 ret;
             ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%in0+16];
             add.u32 %r4, %r4, %r5; add.u32 %r6, %r6, %r7; add.u32 %r4, %r4, %r6;
             st.global.u32 [%out0], %r4;"
        )
    };
    let (fenced, bare) = (body("membar.gl;"), body(""));
    for seed in [None, Some(1), Some(2)] {
        let run = Run { blocks: 4, seed, ..Run::new(&fenced) };
        assert_eq!(run.words(&[])[0], 1 + 2 + 3 + 4);
        let fault = Run { body: &bare, ..run }.fault();
        assert_eq!(fault.kind, FaultKind::Race, "{fault}");
    }
}

/// A whole warp takes a different code path than a single lane; only its last lane is wrong here.
#[test]
fn the_wrong_lane_of_a_whole_warp_is_found() {
    let fault = Run::new("mul.wide.u32 %d1, %t, 4; add.u64 %d1, %d1, %in0; ld.global.u32 %r1, [%d1+388];").fault();
    assert_eq!((fault.kind, fault.thread), (FaultKind::IllegalAddress, [31, 0, 0]), "{fault}");
}

#[test]
fn threads_and_blocks_race() {
    let cases = [
        (1, "mov.u64 %d1, box; st.shared.u32 [%d1], %t; ld.shared.u32 %r1, [%d1];"),
        (2, "st.global.u32 [%out0], %t;"),
        (2, "st.global.u8 [%out0+1], %t; ld.global.u16 %r1, [%out0];"),
        (2, "ld.global.u32 %r1, [%out0]; atom.global.add.u32 %r2, [%out0], 1;"),
    ];
    for (blocks, body) in cases {
        let fault = Run { blocks, outside: ".shared .align 8 .b8 box[16];", ..Run::new(body) }.fault();
        assert_eq!(fault.kind, FaultKind::Race, "{body}: {fault}");
    }
    // Different blocks may write different bytes of a word.
    let body = "mov.u32 %r1, %ctaid.x; cvt.u64.u32 %d1, %r1; add.u64 %d1, %d1, %out; st.global.u8 [%d1], %r1;";
    let out = Run { blocks: 4, seed: Some(5), ..Run::new(body) }.with::<u32>(&[]).unwrap_or_else(|f| panic!("{f}"));
    assert!(out.iter().all(|bytes| bytes[..5] == [0, 1, 2, 3, 0]));
}
