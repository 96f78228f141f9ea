//! Lowering: the result for each family, and the errors for unknown code.

use super::*;

/// A kernel with module-scope text, a few registers of each width, and this body.
fn text(module: &str, body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n{module}\n.visible .entry k(.param .u64 k_0, .param .align 4 .b8 \
         k_1[12], .param .u64 k_2)\n{{\n.reg .pred %p<9>;\n.reg .b16 %rs<9>;\n.reg .b32 %r<20>;\n.reg .f32 %f<20>;\n.reg .b64 \
         %rd<9>;\n.reg .f64 %fd<9>;\n{body}\n}}\n"
    )
}

fn load(body: &str) -> Program {
    Program::load(&text("", body)).unwrap_or_else(|error| panic!("{body}: {error}"))
}

/// The only instruction of a body, before the exit at its end.
fn one(body: &str) -> (Op, Program) {
    let program = load(body);
    assert_eq!(program.kernels[0].code.len(), 2, "{body}");
    (program.kernels[0].code[0].op.clone(), program)
}

fn refused(body: &str) -> String {
    Program::load(&text("", body)).expect_err(body).to_string()
}

/// The value of a constant row.
fn held(program: &Program, reg: Reg) -> Constant {
    program.kernels[0].constants.iter().find(|(row, _)| *row == reg).expect("a constant").1
}

#[test]
fn loads_and_stores() {
    let access = |body: &str| match one(body).0 {
        Op::Load { access, d, .. } => (access, d.len),
        Op::Store { access, a, .. } => (access, a.len),
        op => panic!("{body} became {op:?}"),
    };
    let plain =
        |space, bytes, register| Access { space, bytes, signed: false, register, strong: false, read_only: false };
    use Space::*;
    for (body, expected, registers) in [
        ("ld.global.f32 %f1, [%rd1];", plain(Global, 4, 4), 1),
        ("ld.u64 %rd1, [%rd1];", plain(Generic, 8, 8), 1),
        ("ld.global.u8 %rs1, [%rd1];", plain(Global, 1, 2), 1),
        ("ld.global.b8 %r1, [%rd1];", plain(Global, 1, 4), 1),
        ("ld.shared.v4.u32 {%r1,%r2,_,%r4}, [%r5+16];", plain(Shared, 4, 4), 4),
        ("ld.shared::cta.v2.f64 {%fd1,%fd2}, [%rd5];", plain(Shared, 8, 8), 2),
        ("ld.local.v2.b16 {%rs1,%rs2}, [%rd5];", plain(Local, 2, 2), 2),
        ("ld.const.f32 %f1, [%rd5];", plain(Constant, 4, 4), 1),
        ("ld.global.cs.v4.s32 {%r1,%r2,%r3,%r4}, [%rd5];", Access { signed: true, ..plain(Global, 4, 4) }, 4),
        ("ld.global.s16 %r1, [%rd1];", Access { signed: true, ..plain(Global, 2, 4) }, 1),
        (
            "ld.global.nc.L1::no_allocate.L2::128B.f32 %f1, [%rd1];",
            Access { read_only: true, ..plain(Global, 4, 4) },
            1,
        ),
        ("ld.volatile.global.u32 %r1, [%rd1];", Access { strong: true, ..plain(Global, 4, 4) }, 1),
        ("ld.acquire.gpu.global.u32 %r1, [%rd1];", Access { strong: true, ..plain(Global, 4, 4) }, 1),
        ("st.global.v2.f32 [%rd1], {%f1,%f2};", plain(Global, 4, 4), 2),
        ("st.shared.u8 [%r1], %rs1;", plain(Shared, 1, 2), 1),
        ("st.release.sys.global.u32 [%rd1], %r1;", Access { strong: true, ..plain(Global, 4, 4) }, 1),
        ("st.global.wt.u32 [%rd1], 5;", plain(Global, 4, 4), 1),
        ("st.local.u64 [%rd1], 5;", plain(Local, 8, 8), 1),
    ] {
        assert_eq!(access(body), (expected, registers), "{body}");
    }
}

#[test]
fn addresses() {
    let address = |body: &str| match one(body) {
        (Op::Load { address, .. }, program) => (address, program),
        (op, _) => panic!("{body} became {op:?}"),
    };
    let (found, _) = address("ld.shared.u32 %r1, [%r2+-8];");
    assert_eq!((found.offset, found.wide), (-8, false));
    let (found, program) =
        address(".shared .align 8 .b8 first[12]; .shared .align 16 .b8 second[4];\nld.shared.u32 %r1, [second+4];");
    assert_eq!((held(&program, found.base), found.offset), (Constant::Shared64(16), 4));
    assert_eq!((program.kernels[0].static_shared, program.kernels[0].dynamic_shared_offset), (20, 32));
    let (found, program) = address(".local .align 16 .b8 depot[64];\nld.local.u32 %r1, [depot+60];");
    assert_eq!((held(&program, found.base), found.offset), (Constant::Local64(0), 60));
    assert_eq!(program.kernels[0].local_bytes, 64);
    let (found, _) = address("ld.global.u32 %r1, [4096];");
    assert_eq!((found.offset, found.wide), (4096, true));
}

#[test]
fn module_variables() {
    let module =
        ".global .u32 counter; .const .align 8 .b8 table[16] = {1, 2}; .shared .f32 unused[64]; .shared .u16 used[3];
        .extern .shared .align 128 .b8 dynamic[];";
    let body = "mov.u64 %rd1, table+8;\nmov.u32 %r1, used;\nmov.u32 %r2, dynamic;\nld.const.u32 %r3, [table+4];";
    let program = Program::load(&text(module, body)).unwrap();
    let [counter, table] = program.symbols.as_slice() else { panic!("{:?}", program.symbols) };
    assert_eq!(
        (counter.name.as_str(), counter.size, counter.bytes.as_deref(), counter.constant),
        ("counter", 4, None, false)
    );
    assert_eq!((table.align, table.constant), (8, true));
    assert_eq!(table.bytes.as_deref(), Some(&[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..]));
    let mut constants: Vec<_> = program.kernels[0].constants.iter().map(|(_, constant)| *constant).collect();
    constants.sort_unstable();
    let expected = [Constant::Shared32(0), Constant::Shared32(128), Constant::Symbol(1, 0), Constant::Symbol(1, 8)];
    assert_eq!(constants, expected);
    assert_eq!((program.kernels[0].static_shared, program.kernels[0].dynamic_shared_offset), (6, 128));
}

#[test]
fn parameters_and_the_pointers_among_them() {
    let body = "ld.param.u64 %rd1, [k_0];\nld.param.v2.u32 {%r1,%r2}, [k_1];\nld.param.u32 %r3, [k_1+8];\n\
                ld.param.u64 %rd2, [k_2];\ncvta.to.global.u64 %rd2, %rd2;";
    let program = load(body);
    let kernel = &program.kernels[0];
    let shape: Vec<_> = kernel.parameters.iter().map(|p| (p.offset, p.size, p.align, p.pointers.as_slice())).collect();
    assert_eq!(shape, [(0, 8, 8, &[][..]), (8, 12, 4, &[]), (24, 8, 8, &[0])]);
    assert_eq!(kernel.parameter_bytes, 32);
    let offsets: Vec<_> = kernel
        .code
        .iter()
        .filter_map(|i| if let Op::LoadParameter { offset, .. } = i.op { Some(offset) } else { None })
        .collect();
    assert_eq!(offsets, [0, 8, 16, 24]);
    // A register that was overwritten is no longer that parameter.
    let program = load("ld.param.u64 %rd1, [k_0];\nadd.u64 %rd1, %rd1, 8;\ncvta.to.global.u64 %rd2, %rd1;");
    assert!(program.kernels[0].parameters[0].pointers.is_empty());
    assert!(refused("ld.param.u64 %rd1, [k_1+8];").contains("8 bytes at 8 of `k_1`, which has 12"));
}

#[test]
fn atomics() {
    for (body, f, kind, space, returns) in [
        ("atom.global.add.u32 %r1, [%rd1], 1;", Atomic::Add, AtomicKind::U32, Space::Global, true),
        ("atom.global.cta.add.f32 %f1, [%rd1], %f2;", Atomic::Add, AtomicKind::F32, Space::Global, true),
        ("atom.acq_rel.gpu.shared.max.s32 _, [%r1], -4;", Atomic::Max, AtomicKind::S32, Space::Shared, false),
        ("atom.exch.b64 %rd1, [%rd2], %rd3;", Atomic::Exchange, AtomicKind::B64, Space::Generic, true),
        ("atom.global.cas.b16 %rs1, [%rd2], %rs3, %rs4;", Atomic::CompareAndSwap, AtomicKind::B16, Space::Global, true),
        ("red.global.add.noftz.bf16x2 [%rd1], %r1;", Atomic::Add, AtomicKind::Bf16x2, Space::Global, false),
        ("red.release.gpu.global.or.b32 [%rd1], %r1;", Atomic::Or, AtomicKind::B32, Space::Global, false),
        ("atom.global.inc.u32 %r1, [%rd1], 9;", Atomic::Increment, AtomicKind::U32, Space::Global, true),
    ] {
        let (Op::Atomic { f: found, kind: found_kind, space: found_space, d, c, .. }, _) = one(body) else {
            panic!("{body}")
        };
        assert_eq!((found, found_kind, found_space, d != Reg::NONE), (f, kind, space, returns), "{body}");
        assert_eq!(c != Reg::NONE, f == Atomic::CompareAndSwap, "{body}");
    }
}

#[test]
fn tiles() {
    let (Op::CopyAsync { size, source_size, .. }, _) = one("cp.async.cg.shared.global.L2::128B [%r1], [%rd1], 16;")
    else {
        panic!("cp.async")
    };
    assert_eq!((size, source_size), (16, Reg::NONE));
    let (Op::CopyAsync { size, source_size, .. }, program) = one("cp.async.ca.shared.global [%r1+4], [%rd1], 4, 2;")
    else {
        panic!("cp.async with a source size")
    };
    assert_eq!((size, held(&program, source_size)), (4, Constant::Bits32(2)));
    assert!(matches!(one("cp.async.wait_group 3;").0, Op::WaitGroup { pending: 3 }));
    let (Op::LoadMatrix { d, transposed, .. }, _) =
        one("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r1,%r2}, [%r3];")
    else {
        panic!("ldmatrix")
    };
    assert_eq!((d.len, transposed), (2, true));
    let body =
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2}, {%r3}, {%f1,%f2,%f3,%f4};";
    let (Op::Mma { shape, registers }, program) = one(body) else { panic!("mma") };
    assert_eq!((shape, registers.len), (MmaShape::M16N8K8Bf16, 11));
    let list = program.kernels[0].list(registers);
    assert_eq!(list[..4], list[7..], "d and c are the same registers");
}

#[test]
fn collectives() {
    let (Op::Shuffle { mode, p, .. }, _) = one("shfl.sync.down.b32 %r1|%p1, %r2, 4, 31, -1;") else { panic!("shfl") };
    assert_eq!((mode, p != Pred::NONE), (Shuffle::Down, true));
    let (Op::Vote { mode, negated, d, .. }, _) = one("vote.sync.ballot.b32 %r1, !%p1, 0xffffffff;") else {
        panic!("vote")
    };
    assert_eq!((mode, negated, d != Reg::NONE), (Vote::Ballot, true, true));
    let (Op::Match { all, wide, p, .. }, _) = one("match.all.sync.b64 %r1|_, %rd1, %r2;") else { panic!("match") };
    assert_eq!((all, wide, p), (true, true, Pred::NONE));
    assert!(matches!(one("redux.sync.add.s32 %r1, %r2, -1;").0, Op::Reduce { f: Reduction::AddU32, .. }));
    let (Op::Barrier { id, count }, program) = one("barrier.sync.aligned 1, 64;") else { panic!("barrier") };
    assert_eq!((held(&program, id), held(&program, count)), (Constant::Bits32(1), Constant::Bits32(64)));
    let (Op::BarrierReduce { f, count, p_out, .. }, _) = one("bar.red.or.pred %p1, 0, !%p2;") else {
        panic!("bar.red")
    };
    assert_eq!((f, count, p_out != Pred::NONE), (BarrierReduction::Or, Reg::NONE, true));
    assert!(matches!(one("fence.acq_rel.gpu;").0, Op::Fence));
    assert!(matches!(one("bar.warp.sync 15;").0, Op::WarpBarrier { .. }));
}

#[test]
fn predicates_and_selection() {
    let (Op::Compare { combine, q, .. }, _) = one("setp.lt.or.s32 %p1|%p2, %r1, 5, !%p3;") else { panic!("setp") };
    assert_eq!((combine.f, combine.negated, q != Pred::NONE), (PredicateLogic::Or, true, true));
    let (Op::Compare { combine, q, .. }, _) = one("setp.ge.f32 %p1, %f1, 0f00000000;") else { panic!("setp") };
    assert_eq!((combine, q), (Combine::PLAIN, Pred::NONE));
    assert!(matches!(one("selp.f64 %fd1, %fd2, 0d3FF0000000000000, %p1;").0, Op::Select64 { .. }));
    let (Op::PredicateLogic { f, a, .. }, _) = one("mov.pred %p1, -1;") else { panic!("mov.pred") };
    assert_eq!((f, a), (PredicateLogic::Move, Pred::TRUE));
    // `and` cannot negate, so the negation goes to a new predicate.
    assert_eq!(load("and.pred %p1, %p2, !%p3;").kernels[0].code.len(), 3);
    let program = load("@!%p1 membar.gl;");
    assert!(program.kernels[0].code[0].guard.negated);
}

#[test]
fn unknown_instructions_are_named_with_their_line() {
    let file = ".file 1 \"/src/kernel.cu\"\n.file 2 \"/toolkit/include/crt/math.hpp\"";
    let body = ".loc 1 7 3\nmembar.gl;\n.loc 2 99 1, function_name $L__info_string0, inlined_at 1 7 3\nwgmma.fence.sync.aligned;";
    let error = Program::load(&text(file, body)).unwrap_err();
    let LoadError::UnknownForm { form, location } = &error else { panic!("{error}") };
    assert_eq!(form, "wgmma.fence.sync.aligned");
    assert_eq!((location.kernel.as_str(), location.source.clone()), ("k", Some(("/src/kernel.cu".to_string(), 7))));
    assert!(error.to_string().starts_with("/src/kernel.cu:7, kernel k, line "), "{error}");
    for form in [
        "elect.sync _|%p1, -1;",
        "setmaxnreg.inc.sync.aligned.u32 240;",
        "griddepcontrol.wait;",
        "mbarrier.init.shared.b64 [%r1], 1;",
        "cp.async.bulk.tensor.2d.shared [%r1], %r2;",
        "cp.async.mbarrier.arrive.shared.b64 [%rd1];",
        "ld.global.banana.f32 %f1, [%rd1];",
        "ld.relaxed.global.f32 %f1, [%rd1];",
        "ld.global.nc %f1, [%rd1];",
        "st.global.nc.f32 [%rd1], %f1;",
        "st.const.f32 [%rd1], %f1;",
        "ld.global.v4.f64 {%fd1,%fd2,%fd3,%fd4}, [%rd1];",
        "atom.global.add.s64 %rd1, [%rd2], %rd3;",
        "atom.global.add.bf16x2 %r1, [%rd2], %r3;",
        "red.global.exch.b32 [%rd2], %r3;",
        "mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f1};",
        "ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r1,%r2,%r3}, [%r4];",
        "shfl.bfly.b32 %r1, %r2, 1, 31;",
        "vote.ballot.b32 %r1, %p1;",
        "fence.proxy.async;",
        "mov.b8 %r1, %r2;",
        "selp.pred %p1, %p2, %p3, %p4;",
        "banana %r1;",
    ] {
        let opcode = form.split(' ').next().unwrap_or_default();
        let error = refused(form);
        assert!(
            error.contains(&format!("does not know the instruction `{}`", opcode.trim_end_matches(';'))),
            "{form}: {error}"
        );
    }
}

#[test]
fn operands_that_do_not_fit() {
    for (body, message) in [
        ("add.s32 %r1, %r2, %rd3;", "`%rd3` has 64 bits, the instruction takes 32"),
        ("add.s32 %r1, %r2;", "takes 2 operands after its result, not 1"),
        ("add.s32 %r1, %r2, 0x123456789;", "does not fit the 32 bits"),
        ("add.s32 %r1, %r2, nothing;", "`nothing` is not declared"),
        ("add.s32 %r1, %r20, %r1;", "`%r20` is not declared"),
        ("add.s32 5, %r2, %r1;", "expected a register to write, found 5"),
        ("add.s32 %tid.x, %r2, %r1;", "`%tid.x` is not declared"),
        ("add.s32 %r1, %p2, %r1;", "`%p2` is a predicate"),
        ("add.f32 %f1, %f2, 1;", "floating point"),
        ("@%r1 ret;", "`%r1` is not a predicate"),
        ("@_ ret;", "`_` is not declared"),
        ("bra nowhere;", "the label `nowhere` is not defined"),
        ("L: L: ret;", "the label `L` is defined twice"),
        (".reg .b32 x; .reg .b32 x;", "`x` is declared twice"),
        (".reg .b32 x<4000000000>; .reg .b128 y;", "`.b128`"),
        ("{ .reg .b32 x; } mov.u32 x, 1;", "`x` is not declared"),
        ("ld.global.f32 %f1, [%p1];", "`%p1` is a predicate, not an address"),
        ("ld.global.f32 %f1, [%rs1];", "16-bit register"),
        ("ld.global.f32 %f1, [%rd1+4294967296];", "does not fit in 32 bits"),
        ("ld.global.f32 %f1, [k_0];", "only `ld.param` reads it"),
        ("ld.param.u32 %r1, [%rd1];", "is not a parameter"),
        ("ld.global.u32 %rs1, [%rd1];", "registers of 2 bytes for elements of 4"),
        ("ld.global.v2.u32 {%r1,%rd2}, [%rd1];", "different widths"),
        ("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1,%r1}, [%r4];", "written twice"),
        ("cp.async.cg.shared.global [%r1], [%rd1], 8;", "`cp.async.cg` 16"),
        ("cp.async.wait_group %r1;", "a number of groups"),
        ("bar.arrive 1;", "takes a number of threads"),
        ("call.uni (%r1), helper, (%r2);", "`call.uni` of `helper`"),
        ("call.uni %rd1, (%r2), prototype;", "not supported"),
        ("st.param.b32 [k_1], %r1;", "not a `.param` of this body"),
        (".param .b32 a; ld.param.b32 %r1, [a];", "nothing of this width was passed"),
        (".shared .b8 huge[99999999];", "take 99999999 bytes"),
        ("mov.u64 %rd1, k_0;", "the address of a parameter"),
        ("brx.idx %r1, nowhere;", "the label `nowhere` is not defined"),
    ] {
        let error = refused(body);
        assert!(error.contains(message), "{body}: {error}");
    }
}

/// `f(x, y)` with an early return, called twice, once from another function.
#[test]
fn calls_are_inlined() {
    let module = ".func (.param .b32 r) f(.param .b32 x, .param .b32 y) {
            .reg .b32 %r<4>; .reg .pred %p<2>;
            ld.param.b32 %r1, [x]; ld.param.b32 %r2, [y];
            st.param.b32 [r], %r1;
            setp.lt.s32 %p1, %r1, %r2; @%p1 ret;
            st.param.b32 [r+0], %r2; ret; }
        .func (.param .b32 r) g(.param .b32 x) {
            .reg .b32 %r<4>;
            ld.param.b32 %r1, [x];
            { .param .b32 a; st.param.b32 [a], %r1; .param .b32 b; st.param.b32 [b], 9; .param .b32 c;
              call.uni (c), f, (a, b); ld.param.b32 %r2, [c]; }
            st.param.b32 [r], %r2; }";
    let body = "{ .param .b32 a; st.param.b32 [a], %r7; .param .b32 b; call.uni (b), g, (a); ld.param.b32 %r8, [b+0]; }
        st.global.u32 [%rd1], %r8;";
    let program = Program::load(&text(module, body)).unwrap();
    let code = &program.kernels[0].code;
    let branches: Vec<_> = (0..)
        .zip(code)
        .filter_map(|(at, i)| if let Op::Branch { target, .. } = i.op { Some((at, target)) } else { None })
        .collect();
    // Moves: into a (0), x of g (1), into a and b (2, 3), x and y of f (4, 5), into r (6), setp (7), ret (8), r (9),
    // ret (10); both returns go to the instruction after f.
    assert_eq!(branches, [(8, 11), (10, 11)]);
    assert!(matches!(code.last().map(|i| &i.op), Some(Op::Exit)));
    assert_eq!(code.iter().filter(|i| matches!(i.op, Op::Exit)).count(), 1, "`ret` of a function is not an exit");

    let recursive = ".func f() { call.uni f; ret; }";
    let error = Program::load(&text(recursive, "call.uni f;")).unwrap_err().to_string();
    assert!(error.contains("without recursion"), "{error}");
    assert!(matches!(one(".param .b64 a; call.uni __assertfail, (a);").0, Op::Trap));
}

/// The number of instructions for each; the forms define the values.
#[test]
fn comparisons_into_registers_and_carries() {
    for (body, n) in [
        ("set.lt.f32.s32 %f1, %r1, %r2;", 2),
        ("set.eq.and.u32.f32 %r1, %f1, %f2, %p1;", 2),
        ("set.nan.bf16.bf16 %rs1, %rs2, %rs2;", 2),
        ("set.ge.bf16x2.bf16x2 %r1, %r2, %r3;", 9),
        ("set.eq.u32.f16x2 %r1, %r2, %r3;", 9),
        ("setp.lt.bf16x2 %p1|%p2, %r1, %r2;", 8),
        ("setp.lt.f16x2 %p1|_, %r1, %r2;", 7),
        ("add.cc.u32 %r1, %r2, %r3;", 3),
        ("addc.u64 %rd1, %rd2, 0;", 1),
        ("subc.cc.s32 %r1, %r2, 5;", 3),
        ("madc.hi.cc.u32 %r1, %r2, %r3, %r4;", 4),
    ] {
        assert_eq!(load(body).kernels[0].code.len(), n + 1, "{body}");
    }
    for form in ["set.banana.u32.f32", "set.lt.f64.f32", "set.lt.f32", "add.cc.u16", "addc.f32", "mad.cc.u32"] {
        let error = refused(&format!("{form} %r1, %r2, %r3;"));
        assert!(error.contains(&format!("does not know the instruction `{form}`")), "{form}: {error}");
    }
    // A second carry of the same flag: the second sum reads what the first one wrote.
    let program = load("add.cc.u32 %r1, %r2, %r3; addc.u32 %r4, %r5, %r6; st.global.v2.u32 [%rd1], {%r1, %r4};");
    let code = &program.kernels[0].code;
    let (Op::Compute { operands: flag, .. }, Op::Compute { operands: sum, .. }) = (&code[2].op, &code[3].op) else {
        panic!("{code:?}")
    };
    assert_eq!(flag.d, sum.c);
}
