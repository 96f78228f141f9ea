//! What the parser accepts, and its errors.

use super::*;

/// A kernel with this body.
fn kernel(body: &str) -> String {
    format!(".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(\n.param .u64 p\n)\n{{\n{body}\n}}\n")
}

fn statements(text: &str) -> Vec<Statement<'_>> {
    let module = parse(text).unwrap();
    let entry = module.entries.into_iter().next().unwrap();
    let statement = |item| if let Item::Statement(statement) = item { Some(statement) } else { None };
    entry.body.into_iter().filter_map(statement).collect()
}

fn operands(text: &str) -> Vec<Operand<'_>> {
    statements(text).remove(0).operands
}

#[test]
fn header_files_and_variables() {
    let text = r#"
        // a comment
        .version 8.7 /* and
        another */
        .target sm_90a, debug
        .address_size 64
        .extern .shared .align 16 .b8 dynamic[];
        .visible .const .align 4 .u32 LIMIT = 1024;
        .global .align 2 .b16 table[2][2] = {{1, -2}, {0xFFFFU}};
        .weak .global .f32 one = 0f3F800000;
        .file 1 "/a/b.cu"
        .file 7 "c.cuh", 12, 34
        .section .debug_str
        { $L__info_string0: .b8 95, { 90 } ,0 }
    "#;
    let module = parse(text).unwrap();
    assert_eq!(module.version, (8, 7));
    assert_eq!(module.target, Target { major: 9, minor: 0, accelerated: true });
    assert_eq!(module.target.to_string(), "sm_90a");
    assert_eq!(module.files, [(1, "/a/b.cu"), (7, "c.cuh")]);
    let [dynamic, limit, table, one] = module.variables.as_slice() else { panic!("{:?}", module.variables) };
    assert_eq!((dynamic.name, dynamic.space, dynamic.align, dynamic.count), ("dynamic", Space::Shared, 16, None));
    assert!(dynamic.external && !limit.external);
    assert_eq!((limit.name, limit.space, limit.initial.as_slice()), ("LIMIT", Space::Const, &[0, 4, 0, 0][..]));
    assert_eq!((table.element, table.count, table.bytes()), (2, Some(4), 8));
    assert_eq!(table.initial, [1, 0, 0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(one.initial, 1.0f32.to_le_bytes());
}

#[test]
fn kernels_and_their_parameters() {
    let text = ".version 9.0 .target sm_80 .address_size 64
        .extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b) ;
        .func helper(.param .b32 x) .noreturn { ret; { } }
        .entry none() { ret; }
        .visible .entry k(.param .u64 .ptr .global .align 16 k_0, .param .align 8 .b8 k_1[24], .param .f32 k_2)
        .maxntid 128, 2
        .minnctapersm 2
        .pragma \"nounroll\";
        { ret; }
        .entry declared(.param .u32 x) .reqntid 32;";
    let module = parse(text).unwrap();
    let functions: Vec<_> =
        module.functions.iter().map(|f| (f.name, f.results.len(), f.parameters.len(), f.body.is_some())).collect();
    assert_eq!(functions, [("vprintf", 1, 2, false), ("helper", 0, 1, true)]);
    let [none, k] = module.entries.as_slice() else { panic!("two kernels have bodies") };
    assert_eq!((none.name, none.parameters.len(), none.max_threads), ("none", 0, None));
    assert_eq!(k.max_threads, Some([128, 2, 1]));
    let shape: Vec<_> = k.parameters.iter().map(|p| (p.name, p.bytes(), p.align, p.pointer)).collect();
    assert_eq!(shape, [("k_0", 8, 8, true), ("k_1", 24, 8, false), ("k_2", 4, 4, false)]);
}

#[test]
fn operands_of_every_kind() {
    let text =
        kernel("x a, _, !b, c|d, -5, 0x1F, 0xFFFFFFFFU, 017, 0b101, 0f3F800000, 0dBFF0000000000000, 1.5, s+8, t-8;");
    use Operand::*;
    let expected = [
        Name("a"),
        Name("_"),
        Not("b"),
        Pair("c", "d"),
        Integer(-5),
        Integer(31),
        Integer(0xffff_ffff),
        Integer(15),
        Integer(5),
        Float(0x3f80_0000),
        Double(0xbff0_0000_0000_0000),
        Double(1.5f64.to_bits()),
        Offset("s", 8),
        Offset("t", -8),
    ];
    assert_eq!(operands(&text), expected);
    let text = kernel("x {%r1, _}, [%rd1+4], [%rd1+-4], [%rd1-4], [16], [g], (a, 1);");
    let expected = [
        Vector(vec![Name("%r1"), Name("_")]),
        Address(Base::Name("%rd1"), 4),
        Address(Base::Name("%rd1"), -4),
        Address(Base::Name("%rd1"), -4),
        Address(Base::Zero, 16),
        Address(Base::Name("g"), 0),
        List(vec![Name("a"), Integer(1)]),
    ];
    assert_eq!(operands(&text), expected);
}

#[test]
fn guards_labels_and_scopes() {
    let text = kernel(
        ".reg .pred %p<3>;\n$L_1:\n@%p1 bra $L_1;\n@!%p2 exit;\n{.reg.b16 low,high;}\n$T: .branchtargets $L_1, $L_1;",
    );
    let module = parse(&text).unwrap();
    let body = &module.entries[0].body;
    assert!(matches!(&body[0], Item::Registers(Registers { ty: ".pred", name: "%p", count: Some(3), .. })));
    assert!(matches!(&body[1], Item::Label { name: "$L_1", .. }));
    let guard = |at: usize| if let Item::Statement(s) = &body[at] { s.guard } else { None };
    assert_eq!(guard(2), Some(Guard { predicate: "%p1", negated: false }));
    assert_eq!(guard(3), Some(Guard { predicate: "%p2", negated: true }));
    assert!(matches!(&body[4], Item::Open));
    assert!(matches!(&body[5], Item::Registers(Registers { ty: ".b16", name: "low", count: None, .. })));
    assert!(matches!(&body[7], Item::Close));
    assert!(matches!(&body[8], Item::BranchTargets { name: "$T", labels } if labels.len() == 2));
    assert_eq!(body.len(), 9);
}

#[test]
fn locations_and_where_they_were_inlined() {
    let text = kernel(
        "a;\n.loc 1 10 5\nb;\n.loc 2 896 3, function_name $L__info_string0, inlined_at 1 10 5\nc;\n.loc 1 0 5\nd;\n\
         .loc 3 4 1, function_name $L__info_string1+12, inlined_at 2 896 3\ne;\n.loc 1 10 5\nf;",
    );
    let module = parse(&text).unwrap();
    let chain = |mut location: Option<u32>| {
        let mut lines = Vec::new();
        while let Some(found) = location.map(|location| module.locations[location as usize]) {
            lines.push((found.file, found.line));
            location = found.inlined_at;
        }
        lines
    };
    let found: Vec<_> = statements(&text).iter().map(|s| chain(s.location)).collect();
    let header = vec![(2, 896), (1, 10)];
    let expected = [vec![], vec![(1, 10)], header.clone(), header, vec![(3, 4), (2, 896), (1, 10)], vec![(1, 10)]];
    assert_eq!(found, expected);
}

/// Texts, each with the line and message of its error.
#[test]
fn errors_name_the_line() {
    let start = ".version 9.0\n.target sm_80\n.address_size 64\n";
    for (text, line, message) in [
        ("".to_string(), 1, "`.version`"),
        (".version 9\n".to_string(), 1, "a version such as 9.0"),
        (".version 9.0\n.target banana".to_string(), 2, "`banana` is not an architecture"),
        (".version 9.0\n.target sm_80\n.address_size 32".to_string(), 3, "64-bit"),
        (format!("{start}/* never ends"), 4, "does not end"),
        (format!("{start}.file 1 \"never ends\n"), 4, "does not end"),
        (format!("{start}é"), 4, "not allowed in PTX"),
        (format!("{start}.global .align 3 .u32 x;"), 4, "alignment 3"),
        (format!("{start}.global .u32 x[99999999999999];"), 4, "too large"),
        (format!("{start}.global .u64 x = y;"), 4, "address of y"),
        (format!("{start}.global .b8 x[1] = {{1, 2}};"), 4, "initialiser of 2"),
        (format!("{start}.global .tex .u32 x;"), 4, "`.tex`"),
        (format!("{start}.entry k() .reqnctapercluster 2 {{ ret; }}"), 4, "clusters"),
        (format!("{start}.entry k() {{ add.s32 %r1, %r2"), 4, "expected `;`"),
        (format!("{start}.entry k() {{ add.s32 %r1, ; }}"), 4, "an operand"),
        (format!("{start}.entry k() {{ tex.2d.v4 a, [b, c]; }}"), 4, "coordinates"),
        (format!("{start}.entry k() {{\n\n.maxntid 4; }}"), 6, "`.maxntid` is not supported inside a body"),
        (format!("{start}.entry k() {{ {{ ret; }}"), 4, "`}` at the end of the body"),
    ] {
        let error = parse(&text).expect_err(&text);
        assert!(
            error.message.contains(message) && error.line == line,
            "{text}\ngives {error}, not line {line}: {message}"
        );
    }
}
