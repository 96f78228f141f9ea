//! ldmatrix, stmatrix and cp.async (PTX ISA, "Warp-level matrix load instruction: ldmatrix", "stmatrix", "cp.async").

use cuda_emulator::fault::FaultKind;

use crate::fixture::Run;

const BOX: &str = ".shared .align 128 .b8 box[1024];";

/// Fills the box: 16-bit element i has the value i.
const FILL: &str = "mov.u32 %r30, box;
    shl.b32 %r31, %t, 4;
    add.u32 %r29, %r30, %r31;
    shl.b32 %r1, %t, 3;
    mul.lo.u32 %r1, %r1, 0x10001;
    add.u32 %r1, %r1, 0x10000;
    add.u32 %r2, %r1, 0x20002;
    add.u32 %r3, %r2, 0x20002;
    add.u32 %r4, %r3, 0x20002;
    st.shared.v4.u32 [%r29], {%r1, %r2, %r3, %r4};
    bar.sync 0;";

/// From the ISA's figure: row r of an 8 × 8 matrix goes to lanes 4 r … 4 r + 3, two elements each, the first one low.
const ROWS: [[usize; 8]; 8] = [
    [0, 0, 1, 1, 2, 2, 3, 3],
    [4, 4, 5, 5, 6, 6, 7, 7],
    [8, 8, 9, 9, 10, 10, 11, 11],
    [12, 12, 13, 13, 14, 14, 15, 15],
    [16, 16, 17, 17, 18, 18, 19, 19],
    [20, 20, 21, 21, 22, 22, 23, 23],
    [24, 24, 25, 25, 26, 26, 27, 27],
    [28, 28, 29, 29, 30, 30, 31, 31],
];

/// The expected fragment of matrix `m`, whose rows are 16 bytes apart from `16 · 8 m`.
fn fragment(m: u32, transposed: bool) -> [u32; 32] {
    let mut expected = [0; 32];
    for (i, lanes) in ROWS.iter().enumerate() {
        for (j, lane) in lanes.iter().enumerate() {
            let (row, column) = if transposed { (j, i) } else { (i, j) };
            let element = 64 * m + 8 * row as u32 + column as u32;
            expected[*lane] |= element << (16 * (j % 2));
        }
    }
    expected
}

#[test]
fn ldmatrix_gives_each_lane_its_elements() {
    for (n, registers) in [(1, "{%r1}"), (2, "{%r1, %r2}"), (4, "{%r1, %r2, %r3, %r4}")] {
        for (transposed, trans) in [(false, ""), (true, ".trans")] {
            let body = format!(
                "{FILL}
                 mov.u32 %r1, 0; mov.u32 %r2, 0; mov.u32 %r3, 0; mov.u32 %r4, 0;
                 ldmatrix.sync.aligned.m8n8.x{n}{trans}.shared.b16 {registers}, [%r29];
                 st.global.v4.u32 [%out], {{%r1, %r2, %r3, %r4}};"
            );
            let out = Run { outside: BOX, ..Run::new(&body) }.with::<u32>(&[]).unwrap_or_else(|f| panic!("{f}"));
            for m in 0..4 {
                let got: Vec<u32> = out.iter().map(|b| bytemuck::cast::<_, [u32; 4]>(*b)[m]).collect();
                let expected = if m < n { fragment(m as u32, transposed) } else { [0; 32] };
                assert_eq!(got, expected, "x{n}{trans}, matrix {m}");
            }
        }
    }
}

#[test]
fn stmatrix_inverts_ldmatrix() {
    for trans in ["", ".trans"] {
        let body = format!(
            "{FILL}
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r1, %r2, %r3, %r4}}, [%r29];
             bar.sync 0;
             stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r29+512], {{%r1, %r2, %r3, %r4}};
             bar.sync 0;
             ld.shared.v4.u32 {{%r5, %r6, %r7, %r8}}, [%r29+512];
             st.global.v4.u32 [%out], {{%r5, %r6, %r7, %r8}};"
        );
        let run = Run { outside: BOX, target: "sm_90", ..Run::new(&body) };
        let out = run.with::<u32>(&[]).unwrap_or_else(|f| panic!("{f}"));
        for (t, bytes) in out.iter().enumerate() {
            let expected: [u16; 8] = std::array::from_fn(|i| (8 * t + i) as u16);
            assert_eq!(bytemuck::cast::<_, [u16; 8]>(*bytes), expected, "stmatrix{trans}");
        }
    }
}

#[test]
fn a_matrix_needs_all_lanes_and_aligned_rows() {
    let some = format!("{FILL} setp.lt.u32 %p1, %t, 8; @%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r1}}, [%r29];");
    let fault = Run { outside: BOX, ..Run::new(&some) }.fault();
    assert!(fault.message.contains("it needs all 32"), "{fault}");
    let crooked = format!("{FILL} add.u32 %r29, %r29, 8; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r1}}, [%r29];");
    assert_eq!(Run { outside: BOX, ..Run::new(&crooked) }.fault().kind, FaultKind::Misaligned);
}

#[test]
fn asynchronous_copies_of_every_size() {
    let input: Vec<u8> = (0..32 * 16).map(|i| (i * 7 % 251) as u8).collect();
    for (form, size, source, taken) in [
        ("ca.shared.global", 4, "", 4),
        ("ca.shared.global", 8, "", 8),
        ("ca.shared.global", 16, "", 16),
        ("cg.shared.global", 16, "", 16),
        ("ca.shared.global", 8, ", 4", 4),
        ("cg.shared.global", 16, ", 0", 0),
        ("cg.shared.global", 16, ", %r9", 16),
    ] {
        let body = format!(
            "mov.u32 %r9, 16;
             mov.u32 %r30, box;
             shl.b32 %r31, %t, 4;
             add.u32 %r29, %r30, %r31;
             mov.u32 %r1, -1;
             st.shared.v4.u32 [%r29], {{%r1, %r1, %r1, %r1}};
             cp.async.{form} [%r29], [%in], {size}{source};
             cp.async.commit_group;
             cp.async.wait_group 0;
             ld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [%r29];
             st.global.v4.u32 [%out], {{%r1, %r2, %r3, %r4}};"
        );
        let run = Run { outside: BOX, ..Run::new(&body) };
        let out = run.with(&input).unwrap_or_else(|f| panic!("{form} {size}{source}: {f}"));
        for (given, got) in input.chunks(16).zip(&out) {
            let mut expected = [0xff; 16];
            expected[..size].fill(0);
            expected[..taken].copy_from_slice(&given[..taken]);
            assert_eq!(*got, expected, "{form} {size}{source}");
        }
    }
}

#[test]
fn copies_that_are_read_too_early() {
    let copy = |after: &str, offset: u32| {
        format!(
            "mov.u32 %r30, box;
             shl.b32 %r31, %t, 4;
             add.u32 %r29, %r30, %r31;
             xor.b32 %r28, %r29, {offset};
             cp.async.cg.shared.global [%r29], [%in], 16;
             cp.async.commit_group;
             {after}
             ld.shared.u32 %r1, [%r28];"
        )
    };
    let fault =
        |body: String| Run { outside: BOX, ..Run::new(&body) }.with::<u32>(&[]).err().map(|f| (f.kind, f.message));
    let (kind, message) = fault(copy("bar.sync 0;", 0)).unwrap();
    assert!(kind == FaultKind::Race && message.contains("no cp.async.wait"), "{message}");
    let (_, message) = fault(copy("cp.async.wait_group 1; bar.sync 0;", 0)).unwrap();
    assert!(message.contains("no cp.async.wait"), "{message}");
    let (_, message) = fault(copy("cp.async.wait_group 0;", 16)).unwrap();
    assert!(message.contains("no barrier follows the wait"), "{message}");
    assert!(fault(copy("cp.async.wait_group 0;", 0)).is_none(), "its own copy needs no barrier");
    assert!(fault(copy("cp.async.wait_all; bar.sync 0;", 16)).is_none());
}
