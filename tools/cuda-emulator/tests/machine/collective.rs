//! Shuffles, votes, matches, reductions and barriers (PTX ISA, "Parallel Synchronization and Communication Instructions" and
//! `shfl.sync`).

use cuda_emulator::fault::FaultKind;

use crate::fixture::{Run, inputs, lanes};

/// `shfl.sync` of lane index + 100; returns the value that each lane receives, with the predicate in bit 16.
fn shuffle(mode: &str, b: &str, c: u32) -> Vec<u32> {
    let body = format!(
        "add.u32 %r1, %t, 100;
         {b}
         shfl.sync.{mode}.b32 %r2|%p1, %r1, %r3, {c}, 0xffffffff;
         selp.u32 %r4, 0x10000, 0, %p1;
         or.b32 %r2, %r2, %r4;
         st.global.u32 [%out], %r2;"
    );
    Run::new(&body).words(&[])
}

#[test]
fn shuffles_move_values_inside_segments() {
    let inside = |lane: u32| 0x10000 | (100 + lane);
    let by = |n: u32| format!("mov.u32 %r3, {n};");
    // c = (32 - width) << 8, with clamp 31 for all modes except up.
    let (whole, eights) = (0x1f, 0x181f);
    assert_eq!(shuffle("up", &by(3), 0), lanes(|l| if l >= 3 { inside(l - 3) } else { 100 + l }));
    assert_eq!(shuffle("up", &by(3), 0x1800), lanes(|l| if l % 8 >= 3 { inside(l - 3) } else { 100 + l }));
    assert_eq!(shuffle("down", &by(5), whole), lanes(|l| if l + 5 < 32 { inside(l + 5) } else { 100 + l }));
    assert_eq!(shuffle("down", &by(5), eights), lanes(|l| if l % 8 + 5 < 8 { inside(l + 5) } else { 100 + l }));
    assert_eq!(shuffle("bfly", &by(6), whole), lanes(|l| inside(l ^ 6)));
    assert_eq!(shuffle("bfly", &by(9), eights), lanes(|l| if l ^ 9 <= (l & 24 | 7) { inside(l ^ 9) } else { 100 + l }));
    assert_eq!(shuffle("idx", &by(7), whole), lanes(|_| inside(7)));
    assert_eq!(shuffle("idx", &by(7), eights), lanes(|l| inside(l / 8 * 8 + 7)));
    assert_eq!(shuffle("idx", "sub.u32 %r3, 31, %t;", whole), lanes(|l| inside(31 - l)));
}

#[test]
fn votes_count_the_lanes_that_take_part() {
    let vote = |f: &str| {
        let body = format!(
            "setp.lt.u32 %p1, %t, 20;
             mov.u32 %r9, 7;
             @%p1 bra TAKE;
             bra END;
             TAKE:
             ld.global.u32 %r1, [%in];
             setp.ne.u32 %p2, %r1, 0;
             {f}
             END:
             st.global.u32 [%out], %r9;"
        );
        move |holds: &dyn Fn(u32) -> bool| Run::new(&body).words(&inputs((0..32).map(|l| u32::from(holds(l)))))
    };
    let expected = |value: u32| lanes(|l| if l < 20 { value } else { 7 });
    let ballot = vote("vote.sync.ballot.b32 %r9, %p2, 0xfffff;");
    assert_eq!(ballot(&|l| l % 3 == 0), expected(0b0100_1001_0010_0100_1001 | 1 << 18));
    let not = vote("vote.sync.ballot.b32 %r9, !%p2, 0xfffff;");
    assert_eq!(not(&|l| l != 5), expected(1 << 5));
    for (name, all, some, none) in [("all", 1, 0, 0), ("any", 1, 1, 0), ("uni", 1, 0, 1)] {
        let f = vote(&format!("vote.sync.{name}.pred %p3, %p2, 0xfffff; selp.u32 %r9, 1, 0, %p3;"));
        assert_eq!(f(&|_| true), expected(all), "{name}");
        assert_eq!(f(&|l| l == 3), expected(some), "{name}");
        assert_eq!(f(&|l| l > 20), expected(none), "{name}: lanes outside the mask do not count");
    }
}

#[test]
fn matches_find_equal_lanes() {
    let any = Run::new("ld.global.u32 %r1, [%in]; match.any.sync.b32 %r2, %r1, -1; st.global.u32 [%out], %r2;");
    let evens = 0x5555_5555;
    assert_eq!(any.words(&inputs((0..32).map(|l| l % 2))), lanes(|l| if l % 2 == 0 { evens } else { !evens }));
    let wide = Run::new("ld.global.u64 %d1, [%in]; match.any.sync.b64 %r2, %d1, -1; st.global.u32 [%out], %r2;");
    let high: Vec<[u32; 4]> = (0..32).map(|l| [5, l / 16, 0, 0]).collect();
    assert_eq!(wide.words(&high), lanes(|l| if l < 16 { 0xffff } else { 0xffff_0000 }));
    let all = Run::new(
        "ld.global.u32 %r1, [%in]; match.all.sync.b32 %r2|%p1, %r1, -1; selp.u32 %r3, 1, 0, %p1; xor.b32 %r2, %r2, %r3;
         st.global.u32 [%out], %r2;",
    );
    assert_eq!(all.words(&inputs([9; 32])), [u32::MAX ^ 1; 32]);
    assert_eq!(all.words(&inputs((0..32).map(|l| l / 31))), [0; 32]);
}

#[test]
fn reductions_of_a_warp() {
    let values: Vec<u32> = (0..32).map(|l| if l == 7 { 0xffff_fff0 } else { l + 3 }).collect();
    let sum = (0..32).map(|l| l + 3).sum::<u32>() - 10;
    let cases = [
        ("add.u32", sum.wrapping_sub(16)),
        ("add.s32", sum.wrapping_sub(16)),
        ("min.u32", 3),
        ("max.u32", 0xffff_fff0),
        ("min.s32", -16i32 as u32),
        ("max.s32", 34),
        ("and.b32", values.iter().fold(u32::MAX, |a, b| a & b)),
        ("or.b32", 0xffff_ffff),
        ("xor.b32", values.iter().fold(0, |a, b| a ^ b)),
    ];
    for (f, expected) in cases {
        let body = format!("ld.global.u32 %r1, [%in]; redux.sync.{f} %r2, %r1, -1; st.global.u32 [%out], %r2;");
        assert_eq!(Run::new(&body).words(&inputs(values.iter().copied())), [expected; 32], "{f}");
    }
}

#[test]
fn the_active_lanes_of_a_branch() {
    let body = "setp.gt.u32 %p1, %t, 11;
                activemask.b32 %r1;
                @%p1 activemask.b32 %r1;
                st.global.u32 [%out], %r1;";
    // A guarded instruction runs in the lanes of its guard.
    assert_eq!(Run::new(body).words(&[]), lanes(|l| if l > 11 { 0xffff_f000 } else { u32::MAX }));
}

#[test]
fn reductions_at_a_barrier_span_the_block() {
    for (f, expected) in [("popc.u32 %r1, 0, %p1", 33), ("popc.u32 %r1, 0, !%p1", 63)] {
        let body = format!("setp.lt.u32 %p1, %t, 33; bar.red.{f}; st.global.u32 [%out], %r1;");
        let run = Run { threads: 96, ..Run::new(&body) };
        assert_eq!(run.words(&[]), [expected; 96], "{f}");
    }
    for (f, limit, expected) in [("and", 96, 1), ("and", 95, 0), ("or", 1, 1), ("or", 0, 0)] {
        let body = format!(
            "setp.lt.u32 %p1, %t, {limit}; bar.red.{f}.pred %p2, 0, %p1; selp.u32 %r1, 1, 0, %p2; st.global.u32 [%out], %r1;"
        );
        let run = Run { threads: 96, ..Run::new(&body) };
        assert_eq!(run.words(&[]), [expected; 96], "{f} {limit}");
    }
}

/// The first warp arrives at barrier 1 and continues; the second one waits for it.
#[test]
fn a_producer_arrives_and_a_consumer_waits() {
    let body = "shr.u32 %r1, %t, 5;
                setp.eq.u32 %p1, %r1, 0;
                and.b32 %r2, %t, 31;
                shl.b32 %r3, %r2, 2;
                mov.u32 %r4, box;
                add.u32 %r4, %r4, %r3;
                mov.u32 %r5, 77;
                @%p1 bra PRODUCE;
                bar.sync 1, 64;
                ld.shared.u32 %r5, [%r4];
                bra END;
                PRODUCE:
                add.u32 %r6, %t, 1000;
                st.shared.u32 [%r4], %r6;
                bar.arrive 1, 64;
                END:
                st.global.u32 [%out], %r5;";
    for seed in [None, Some(1), Some(2), Some(3)] {
        let run = Run { threads: 64, seed, outside: ".shared .align 4 .b8 box[128];", ..Run::new(body) };
        let expected: Vec<u32> = (0..64).map(|t| if t < 32 { 77 } else { 1000 + t - 32 }).collect();
        assert_eq!(run.words(&[]), expected, "{seed:?}");
    }
}

#[test]
fn misuse_is_named() {
    let absent =
        "setp.lt.u32 %p1, %t, 16; @%p1 bra SOME; bra END; SOME: shfl.sync.down.b32 %r1, %t, 1, 31, 0xffff; END:";
    let fault = Run::new(absent).fault();
    assert_eq!((fault.kind, fault.thread[0]), (FaultKind::Synchronisation, 15), "{fault}");
    assert!(fault.message.contains("lane 16, which does not take part"), "{fault}");
    let missing = "setp.lt.u32 %p1, %t, 16; @%p1 bra SOME; bra END; SOME: shfl.sync.bfly.b32 %r1, %t, 1, 31, -1; END:";
    assert!(Run::new(missing).fault().message.contains("names lanes 0xffff0000"));
    let stray = "vote.sync.ballot.b32 %r1, %p1, 0xfffffffe;";
    assert!(Run::new(stray).fault().message.contains("by lanes 0x00000001, which its mask"));
    let uneven = "shl.b32 %r2, 1, %t; bar.warp.sync %r2;";
    assert!(Run::new(uneven).fault().message.contains("differ between lanes"));
    let divergent = "setp.lt.u32 %p1, %t, 16; @%p1 bra SOME; bra END; SOME: bar.sync 0; END:";
    let fault = Run::new(divergent).fault();
    assert!(
        fault.message.contains("a barrier in divergent code") && fault.kind == FaultKind::Synchronisation,
        "{fault}"
    );
    let half = Run { threads: 64, ..Run::new("setp.lt.u32 %p1, %t, 32; @%p1 bar.sync 2, 64; bar.sync 0;") };
    let fault = half.fault();
    assert_eq!(fault.kind, FaultKind::Deadlock, "{fault}");
    let odd = Run { threads: 64, ..Run::new("bar.sync 3, 40;") };
    assert!(odd.fault().message.contains("a multiple of 32"));
    assert_eq!(Run::new("trap;").fault().kind, FaultKind::Trap);
}
