//! Damaged texts: loading always ends quickly, with a program or an error.

use proptest::prelude::*;

use super::Program;

const ADAMW: &str = include_str!("../../tests/fixtures/adamw-80.ptx");

/// One statement of each family, and all kinds of declarations.
const VARIED: &str = r#".version 9.0
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.global .align 4 .u32 counters[4] = {1, 2, -3};
.const .f64 half = 0d3FE0000000000000;
.extern .func (.param .b32 r) helper (.param .b64 a);
.visible .entry k(.param .u64 k_0, .param .align 8 .b8 k_1[24])
.maxntid 128, 1, 1
{
.reg .pred %p<4>;
.reg .b16 %rs<4>;
.reg .b32 %r<20>;
.reg .f32 %f<9>;
.reg .b64 %rd<9>;
.local .align 16 .b8 depot[64];
.shared .align 128 .b8 tile[2048];
.loc 1 7 3
ld.param.u64 %rd1, [k_0];
ld.param.v2.u32 {%r1, %r2}, [k_1+8];
cvta.to.global.u64 %rd2, %rd1;
mov.u32 %r3, %tid.x;
mov.u32 %r4, dynamic;
mov.b64 %rd3, {%r1, %r2};
LOOP:
.loc 2 80 1, function_name $L__info_string0, inlined_at 1 7 3
setp.lt.and.u32 %p1|%p2, %r3, 32, !%p3;
@%p1 bra DONE;
{ .reg .b16 low, high; mov.b32 {low, high}, %r3; mov.b32 %r5, {high, low}; }
cp.async.cg.shared.global [%r4], [%rd2+16], 16, %r1;
cp.async.commit_group;
cp.async.wait_group 0;
bar.sync 0;
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [tile+64];
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r6,%r7,%r8,%r9}, {%r1,%r2}, {%f1,%f2,%f3,%f4};
shfl.sync.idx.b32 %r10|%p3, %r9, 3, 31, 0xffffffff;
vote.sync.ballot.b32 %r11, %p3, -1;
atom.global.cas.b32 %r12, [counters], %r10, %r11;
lop3.b32 %r13, %r10, %r11, %r12, 0xE8;
st.local.v4.u32 [depot+16], {%r10, %r11, %r12, 5};
T: .branchtargets LOOP, DONE;
brx.idx %r13, T;
DONE:
selp.f32 %f5, %f1, 0f3F800000, %p2;
st.global.f32 [%rd2+-4], %f5;
ret;
}
.file 1 "/src/k.cu"
.file 2 "/toolkit/include/x.h"
.section .debug_str { $L__info_string0: .b8 95,0 }
"#;

/// Words with a meaning for the loader, and numbers at the limits.
const WORDS: &[&str] = &[
    "",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "<",
    ">",
    ";",
    ",",
    ":",
    "!",
    "|",
    "@",
    "+",
    "-",
    "=",
    "\"",
    "/*",
    "//",
    "_",
    "%p1",
    "%r0",
    "%rd1",
    "%rs2",
    "%tid.x",
    "0",
    "1",
    "-1",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "0x8000000000000000",
    "99999999999999999999",
    "0f7FC00000",
    "0f1",
    "1.5",
    "9.0",
    ".reg",
    ".shared",
    ".local",
    ".param",
    ".align",
    ".entry",
    ".func",
    ".loc",
    ".file",
    ".section",
    ".pragma",
    ".b8",
    ".b64",
    ".pred",
    ".v4",
    "ret",
    "bra",
    "DONE",
    "T",
    "k_0",
    "mov.u64",
    "ld.param.u64",
    "call.uni",
    "é",
    "\u{0}",
];

#[test]
fn the_text_itself_loads() {
    let program = Program::load(VARIED).unwrap();
    assert_eq!(program.kernels[0].static_shared, 2048);
    assert!(program.lines.iter().any(|line| &*line.file == "/src/k.cu" && line.line == 7));
}

/// The text with some of its words replaced.
fn with_words(text: &str, changes: &[(usize, usize)]) -> String {
    let mut words: Vec<&str> =
        text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && !"._%$".contains(c)).collect();
    for (at, word) in changes {
        let other = words[word % words.len()];
        let at = at % words.len();
        words[at] = if word % 3 == 0 { other } else { WORDS[word % WORDS.len()] };
    }
    words.concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn words_replaced(changes in prop::collection::vec((any::<usize>(), any::<usize>()), 1..6)) {
        let _ = Program::load(&with_words(VARIED, &changes));
        let _ = Program::load(&with_words(ADAMW, &changes));
    }

    #[test]
    fn lines_moved_and_lost(moves in prop::collection::vec((any::<usize>(), any::<usize>()), 1..6), end in 0..VARIED.len()) {
        let mut lines: Vec<&str> = VARIED.lines().collect();
        for (from, to) in &moves {
            let line = lines.remove(from % lines.len());
            if from % 3 > 0 {
                lines.insert(to % (lines.len() + 1), line);
            }
        }
        let _ = Program::load(&lines.join("\n"));
        let _ = Program::load(&VARIED[..end]);
    }

    #[test]
    fn bytes_replaced(changes in prop::collection::vec((0..VARIED.len(), 0..128_u8), 1..10)) {
        let mut bytes = VARIED.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = Program::load(std::str::from_utf8(&bytes).unwrap());
    }
}

#[test]
fn numbers_that_would_take_all_memory() {
    let header = ".version 9.0 .target sm_80 .address_size 64";
    for text in [
        format!("{header} .entry k() {{ .reg .b32 %r<4294967295>; mov.u32 %r4294967294, 1; ret; }}"),
        format!("{header} .global .b8 x[1099511627776]; .entry k() {{ ret; }}"),
    ] {
        assert!(Program::load(&text).is_ok(), "a declaration takes no memory: {text}");
    }
    for text in [
        format!("{header} .global .b8 x[1099511627776] = {{1}};"),
        format!("{header} .global .b8 x[1099511627776][1099511627776];"),
        format!("{header} .entry k(.param .b8 x[4294967295]) {{ ret; }}"),
        format!("{header} .entry k() {{ .local .b8 x[4294967295]; ret; }}"),
        format!("{header} .entry k() {{ {} ret; }}", "{".repeat(100_000)),
        format!("{header} .global .b8 x[1] = {}", "{".repeat(100_000)),
    ] {
        assert!(Program::load(&text).is_err(), "{}", &text[..120]);
    }
}
