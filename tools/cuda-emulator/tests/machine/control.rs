//! Branches: lanes that diverge and reconverge, loops of different lengths, jump tables, early exits.

use crate::fixture::{Run, lanes};

#[test]
fn nested_branches_reconverge() {
    let body = "mov.u32 %r1, 0;
                and.b32 %r2, %t, 1;
                setp.eq.u32 %p1, %r2, 0;
                @%p1 bra EVEN;
                add.u32 %r1, %r1, 1;
                setp.gt.u32 %p2, %t, 15;
                @!%p2 bra LOW;
                add.u32 %r1, %r1, 10;
                LOW:
                add.u32 %r1, %r1, 100;
                bra MEET;
                EVEN:
                add.u32 %r1, %r1, 1000;
                MEET:
                activemask.b32 %r3;
                add.u32 %r4, %r3, 1;
                add.u32 %r1, %r1, %r4;
                st.global.u32 [%out], %r1;";
    let expected = lanes(|l| match (l % 2, l > 15) {
        (0, _) => 1000,
        (_, true) => 111,
        (_, false) => 101,
    });
    assert_eq!(Run::new(body).words(&[]), expected, "all lanes have reconverged, so the mask + 1 is 0");
}

#[test]
fn loops_run_a_different_number_of_times_in_each_lane() {
    let body = "mov.u32 %r1, 0;
                mov.u32 %r2, 0;
                LOOP:
                setp.ge.u32 %p1, %r2, %t;
                @%p1 bra DONE;
                add.u32 %r2, %r2, 1;
                and.b32 %r3, %r2, 1;
                setp.eq.u32 %p2, %r3, 0;
                @%p2 bra LOOP;
                add.u32 %r1, %r1, %r2;
                bra LOOP;
                DONE:
                st.global.u32 [%out], %r1;";
    // The sum of the odd numbers up to the lane index.
    assert_eq!(Run::new(body).words(&[]), lanes(|l| (1..=l).filter(|n| n % 2 == 1).sum()));
}

#[test]
fn jump_tables_diverge() {
    let body = "and.b32 %r1, %t, 3;
                mov.u32 %r2, 5;
                TABLE: .branchtargets CASE0, CASE1, CASE2, END;
                brx.idx %r1, TABLE;
                CASE0:
                add.u32 %r2, %r2, 10;
                CASE1:
                add.u32 %r2, %r2, 100;
                bra END;
                CASE2:
                mov.u32 %r2, 7;
                END:
                activemask.b32 %r3;
                add.u32 %r3, %r3, 1;
                add.u32 %r2, %r2, %r3;
                st.global.u32 [%out], %r2;";
    assert_eq!(Run::new(body).words(&[]), lanes(|l| [115, 105, 7, 5][l as usize % 4]));
}

#[test]
fn barriers_do_not_wait_for_exited_lanes() {
    let body = "setp.lt.u32 %p1, %t, 40;
                mov.u32 %r1, 1;
                st.global.u32 [%out], %r1;
                @%p1 ret;
                bar.sync 0;
                vote.sync.ballot.b32 %r1, %p1, 0xffffff00;
                mov.u32 %r1, 2;
                st.global.u32 [%out], %r1;";
    let run = Run { threads: 64, ..Run::new(body) };
    let expected: Vec<u32> = (0..64).map(|t| if t < 40 { 1 } else { 2 }).collect();
    assert_eq!(run.words(&[]), expected);
}

#[test]
fn a_block_of_odd_size_and_every_special_register() {
    let body = "mov.u32 %r1, %ntid.x;
                mov.u32 %r2, %nctaid.x;
                mov.u32 %r3, %laneid;
                mov.u32 %r4, %lanemask_lt;
                mad.lo.u32 %r5, %r1, 1000, %r2;
                st.global.v4.u32 [%out], {%r5, %r3, %r4, %t};";
    let out = Run { threads: 45, ..Run::new(body) }.with::<u32>(&[]).unwrap();
    for (t, bytes) in out.iter().enumerate() {
        let words: &[u32] = bytemuck::cast_slice(bytes);
        let lane = t as u32 % 32;
        assert_eq!(words, [45_001, lane, (1 << lane) - 1, t as u32]);
    }
}

/// Results must not depend on the order.
#[test]
fn warps_in_any_order_give_the_same() {
    let body = "shl.b32 %r1, %t, 2;
                mov.u32 %r2, box;
                add.u32 %r1, %r1, %r2;
                st.shared.u32 [%r1], %t;
                bar.sync 0;
                sub.u32 %r3, 127, %t;
                shl.b32 %r3, %r3, 2;
                add.u32 %r3, %r3, %r2;
                ld.shared.u32 %r4, [%r3];
                st.global.u32 [%out], %r4;";
    for seed in [None, Some(0), Some(1), Some(12345)] {
        let run = Run { threads: 128, seed, outside: ".shared .align 4 .b8 box[512];", ..Run::new(body) };
        assert_eq!(run.words(&[]), (0..128).rev().collect::<Vec<_>>(), "{seed:?}");
    }
}
