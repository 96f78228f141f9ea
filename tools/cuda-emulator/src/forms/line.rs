//! A line of the table and how it runs: one loop over 32 lanes, compiled for each processor level.

use super::{Kind, Lane, Operands, Row, Rows, Run};
use crate::ir::Reg;

/// A form with its variants for all levels.
pub struct Line {
    pub name: &'static str,
    pub operands: &'static [Kind],
    /// Indexed by [`Level`].
    pub run: [Run; 3],
}

/// A `setp` test with its variants for all levels.
pub struct CompareLine {
    pub name: &'static str,
    pub operand: Kind,
    pub run: [super::CompareRun; 3],
}

/// Instruction set levels of the processor. All levels give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Baseline,
    Avx2,
    Avx512,
}

impl Level {
    /// The highest level that this processor supports.
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt");
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512cd") {
                return Level::Avx512;
            }
            if avx2 {
                return Level::Avx2;
            }
        }
        Level::Baseline
    }
}

/// Defines, for forms with a given number of sources, the trait, the loop and the constructors of lines.
macro_rules! arity {
    ($meaning:ident, $lanes:ident, $baseline:ident, $avx2:ident, $avx512:ident, $common:ident, $line:ident, $rare:ident;
     $($source:ident $field:ident),+) => {
        /// What a form with this many sources does in one lane.
        pub trait $meaning {
            type D: Lane;
            $(type $source: Lane;)+
            fn lane($($field: Self::$source),+) -> Self::D;
        }

        /// # Safety
        /// See [`Run`].
        #[inline(always)]
        unsafe fn $lanes<M: $meaning>(rows: Rows, operands: Operands, mask: u32) {
            let mut results = [<M::D as Lane>::Bits::default(); 32];
            // SAFETY: the caller guarantees that the operands are inside the file. The sources are not used after the
            // results are stored.
            unsafe {
                $(let $field = &*rows.at::<M::$source>(operands.$field);)+
                for (lane, result) in results.iter_mut().enumerate() {
                    *result = M::lane($(M::$source::from_bits($field[lane])),+).to_bits();
                }
                store(&mut *rows.at::<M::D>(operands.d), &results, mask);
            }
        }

        unsafe fn $baseline<M: $meaning>(rows: Rows, operands: Operands, mask: u32) {
            // SAFETY: guaranteed by the caller.
            unsafe { $lanes::<M>(rows, operands, mask) }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn $avx2<M: $meaning>(rows: Rows, operands: Operands, mask: u32) {
            // SAFETY: guaranteed by the caller.
            unsafe { $lanes::<M>(rows, operands, mask) }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512cd")]
        unsafe fn $avx512<M: $meaning>(rows: Rows, operands: Operands, mask: u32) {
            // SAFETY: guaranteed by the caller.
            unsafe { $lanes::<M>(rows, operands, mask) }
        }

        /// A form that inner loops use: compiled for each level.
        #[allow(dead_code)] // no common form has four sources
        pub const fn $common<M: $meaning>(name: &'static str) -> Line {
            #[cfg(target_arch = "x86_64")]
            let run: [Run; 3] = [$baseline::<M>, $avx2::<M>, $avx512::<M>];
            #[cfg(not(target_arch = "x86_64"))]
            let run: [Run; 3] = [$baseline::<M>; 3];
            Line { name, operands: const { &[M::D::KIND, $(M::$source::KIND),+] }, run }
        }

        /// A form compiled for two levels: AVX-512 gains little over AVX2 here.
        pub const fn $line<M: $meaning>(name: &'static str) -> Line {
            #[cfg(target_arch = "x86_64")]
            let run: [Run; 3] = [$baseline::<M>, $avx2::<M>, $avx2::<M>];
            #[cfg(not(target_arch = "x86_64"))]
            let run: [Run; 3] = [$baseline::<M>; 3];
            Line { name, operands: const { &[M::D::KIND, $(M::$source::KIND),+] }, run }
        }

        /// A form that kernels rarely use: compiled once, for any processor.
        #[allow(dead_code)] // no rare form has four sources
        pub const fn $rare<M: $meaning>(name: &'static str) -> Line {
            Line { name, operands: const { &[M::D::KIND, $(M::$source::KIND),+] }, run: [$baseline::<M>; 3] }
        }
    };
}

arity!(Meaning1, lanes1, baseline1, avx2_1, avx512_1, common1, line1, rare1; A a);
arity!(Meaning2, lanes2, baseline2, avx2_2, avx512_2, common2, line2, rare2; A a, B b);
arity!(Meaning3, lanes3, baseline3, avx2_3, avx512_3, common3, line3, rare3; A a, B b, C c);
arity!(Meaning4, lanes4, baseline4, avx2_4, avx512_4, common4, line4, rare4; A a, B b, C c, E e);

/// Stores the results of the lanes in `mask`.
#[inline(always)]
fn store<T: Copy>(d: &mut [T; 32], results: &[T; 32], mask: u32) {
    if mask == u32::MAX {
        *d = *results;
        return;
    }
    for lane in 0..32 {
        d[lane] = if mask >> lane & 1 != 0 { results[lane] } else { d[lane] };
    }
}

/// A `setp` test in one lane.
pub trait Test {
    type A: Lane;
    fn lane(a: Self::A, b: Self::A) -> bool;
}

/// # Safety
/// See [`Run`].
#[inline(always)]
unsafe fn test_lanes<M: Test>(rows: Rows, a: Reg, b: Reg) -> u32 {
    let mut mask = 0;
    // SAFETY: the caller guarantees that the operands are inside the file.
    unsafe {
        let (a, b) = (&*rows.at::<M::A>(a), &*rows.at::<M::A>(b));
        for lane in 0..32 {
            mask |= (M::lane(M::A::from_bits(a[lane]), M::A::from_bits(b[lane])) as u32) << lane;
        }
    }
    mask
}

unsafe fn test_baseline<M: Test>(rows: Rows, a: Reg, b: Reg) -> u32 {
    // SAFETY: guaranteed by the caller.
    unsafe { test_lanes::<M>(rows, a, b) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn test_avx2<M: Test>(rows: Rows, a: Reg, b: Reg) -> u32 {
    // SAFETY: guaranteed by the caller.
    unsafe { test_lanes::<M>(rows, a, b) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512cd")]
unsafe fn test_avx512<M: Test>(rows: Rows, a: Reg, b: Reg) -> u32 {
    // SAFETY: guaranteed by the caller.
    unsafe { test_lanes::<M>(rows, a, b) }
}

pub const fn test_line<M: Test>(name: &'static str) -> CompareLine {
    #[cfg(target_arch = "x86_64")]
    let run: [super::CompareRun; 3] = [test_baseline::<M>, test_avx2::<M>, test_avx512::<M>];
    #[cfg(not(target_arch = "x86_64"))]
    let run: [super::CompareRun; 3] = [test_baseline::<M>; 3];
    CompareLine { name, operand: M::A::KIND, run }
}

const _: () = assert!(size_of::<Row>() == size_of::<[u32; 32]>());

/// The lines of a family: `"add.s32" => (a: i32, b: i32) -> i32 { a.wrapping_add(b) }`. The prefix `rare` compiles them
/// once for any processor, `common` for each level. (The table dominates the crate's compile time.)
macro_rules! forms {
    (common $($rest:tt)*) => { $crate::forms::line::forms_of!(common1 common2 common3 common4 $($rest)*) };
    (some $($rest:tt)*) => { $crate::forms::line::forms_of!(line1 line2 line3 line4 $($rest)*) };
    (rare $($rest:tt)*) => { $crate::forms::line::forms_of!(rare1 rare2 rare3 rare4 $($rest)*) };
    ($($rest:tt)*) => { $crate::forms::line::forms_of!(line1 line2 line3 line4 $($rest)*) };
}

macro_rules! forms_of {
    ($l1:ident $l2:ident $l3:ident $l4:ident $($name:expr => ($($args:tt)*) -> $d:ty $body:block)*) => {
        &[$($crate::forms::line::form!($l1 $l2 $l3 $l4 $name, ($($args)*) -> $d $body)),*]
    };
}

macro_rules! form {
    ($l1:ident $l2:ident $l3:ident $l4:ident $name:expr, ($a:ident: $A:ty) -> $d:ty $body:block) => {{
        struct Lanes;
        impl $crate::forms::line::Meaning1 for Lanes {
            type D = $d;
            type A = $A;
            #[inline(always)]
            fn lane($a: $A) -> $d $body
        }
        $crate::forms::line::$l1::<Lanes>($name)
    }};
    ($l1:ident $l2:ident $l3:ident $l4:ident $name:expr, ($a:ident: $A:ty, $b:ident: $B:ty) -> $d:ty $body:block) => {{
        struct Lanes;
        impl $crate::forms::line::Meaning2 for Lanes {
            type D = $d;
            type A = $A;
            type B = $B;
            #[inline(always)]
            fn lane($a: $A, $b: $B) -> $d $body
        }
        $crate::forms::line::$l2::<Lanes>($name)
    }};
    ($l1:ident $l2:ident $l3:ident $l4:ident $name:expr,
     ($a:ident: $A:ty, $b:ident: $B:ty, $c:ident: $C:ty) -> $d:ty $body:block) => {{
        struct Lanes;
        impl $crate::forms::line::Meaning3 for Lanes {
            type D = $d;
            type A = $A;
            type B = $B;
            type C = $C;
            #[inline(always)]
            fn lane($a: $A, $b: $B, $c: $C) -> $d $body
        }
        $crate::forms::line::$l3::<Lanes>($name)
    }};
    ($l1:ident $l2:ident $l3:ident $l4:ident $name:expr,
     ($a:ident: $A:ty, $b:ident: $B:ty, $c:ident: $C:ty, $e:ident: $E:ty) -> $d:ty $body:block) => {{
        struct Lanes;
        impl $crate::forms::line::Meaning4 for Lanes {
            type D = $d;
            type A = $A;
            type B = $B;
            type C = $C;
            type E = $E;
            #[inline(always)]
            fn lane($a: $A, $b: $B, $c: $C, $e: $E) -> $d $body
        }
        $crate::forms::line::$l4::<Lanes>($name)
    }};
}

/// The `setp` tests of a family: `"setp.lt.f32" => (a, b: f32) { a < b }`.
macro_rules! tests {
    ($($name:expr => ($a:ident, $b:ident: $A:ty) $body:block)*) => {
        &[$({
            struct Lanes;
            impl $crate::forms::line::Test for Lanes {
                type A = $A;
                #[inline(always)]
                fn lane($a: $A, $b: $A) -> bool $body
            }
            $crate::forms::line::test_line::<Lanes>($name)
        }),*]
    };
}

pub(super) use {form, forms, forms_of, tests};
