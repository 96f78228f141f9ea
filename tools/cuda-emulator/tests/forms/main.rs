//! Every form of the table against values computed independently of the crate, at every processor level.
//!
//! | file | what it is |
//! |---|---|
//! | `by_hand` | results computed by hand |
//! | `reference` | the result of a form, derived from its name: `integers`, `bits`, `floats`, `conversions` |
//! | `exact` | exact arithmetic for the references |
//! | `inputs` | edge values |

mod bits;
mod by_hand;
mod conversions;
mod exact;
mod floats;
mod inputs;
mod integers;
mod reference;
mod types;

use cuda_emulator::forms::{Kind, Level, Operands, Row, Rows, Table, table};
use cuda_emulator::ir::Reg;

use conversions::{agrees, test as test_of};
use reference::{Expected, reference};
use types::Type;

/// Rows of the operands: two rows each. The other rows have a fixed pattern.
const OPERAND_ROWS: [u32; 5] = [2, 4, 6, 8, 10];
const UNTOUCHED: u32 = 0xdead_beef;

/// The tables of all levels that this processor supports.
fn tables() -> Vec<Table> {
    let levels = [Level::Baseline, Level::Avx2, Level::Avx512];
    // SAFETY: the processor supports every level up to the detected one.
    levels.into_iter().filter(|level| *level <= Level::detect()).map(|level| unsafe { Table::new(level) }).collect()
}

fn kind(ty: Type) -> Kind {
    match ty.bits() {
        64 => Kind::Bits64,
        32 => Kind::Bits32,
        _ => Kind::Bits16,
    }
}

/// Writes a lane of a register. The bits above a 16-bit value are unspecified, so this makes them nonzero.
fn put(rows: &mut [Row], reg: u32, lane: usize, ty: Type, bits: u64) {
    let row = &mut rows[reg as usize..];
    match kind(ty) {
        Kind::Bits16 => {
            let extended = if ty.bits() == 8 { bits | 0xa500 } else { bits };
            row[0].0[lane] = extended as u32 | 0x5a5a_0000;
        }
        Kind::Bits32 => row[0].0[lane] = bits as u32,
        Kind::Bits64 => {
            // Two rows are read as 64-bit lanes: lane i is at the 32-bit indices 2i and 2i + 1 of both rows.
            row[lane / 16].0[2 * lane % 32] = bits as u32;
            row[lane / 16].0[2 * lane % 32 + 1] = (bits >> 32) as u32;
        }
    }
}

fn get(rows: &[Row], reg: u32, lane: usize, kind: Kind) -> u64 {
    let row = &rows[reg as usize..];
    match kind {
        Kind::Bits64 => {
            let word = |i: usize| row[lane / 16].0[2 * lane % 32 + i] as u64;
            word(1) << 32 | word(0)
        }
        _ => row[0].0[lane] as u64,
    }
}

/// The register contents for an 8-bit result, which is extended to 16 bits.
fn register_bits(ty: Type, bits: u64) -> u64 {
    if ty == Type::S(8) { Type::U(16).wrap(ty.value(bits)) } else { bits }
}

/// Runs a form over 32 tuples with a mask. The result goes to a separate register or to that of source `alias`.
fn run(table: &Table, name: &str, sources: &[Type], lanes: &[Vec<u64>], mask: u32, alias: Option<usize>) -> Vec<u64> {
    let form = table.find(name).expect(name);
    let mut rows = vec![Row([UNTOUCHED; 32]); 12];
    for (i, ty) in sources.iter().enumerate() {
        for lane in 0..32 {
            put(&mut rows, OPERAND_ROWS[i + 1], lane, *ty, lanes[lane % lanes.len()][i]);
        }
    }
    let d = Reg(OPERAND_ROWS[alias.map_or(0, |source| source + 1)]);
    let [_, a, b, c, e] = OPERAND_ROWS.map(Reg);
    // SAFETY: the operands are inside the rows; the processor supports the level of the table.
    unsafe { (form.run)(Rows::new(&mut rows), Operands { d, a, b, c, e }, mask) };
    (0..32).map(|lane| get(&rows, d.0, lane, form.operands[0])).collect()
}

#[test]
fn every_form_has_a_reference() {
    let missing: Vec<&str> = table()
        .names()
        .filter(|name| if name.starts_with("setp.") { test_of(name).is_none() } else { reference(name).is_none() })
        .collect();
    assert!(missing.is_empty(), "forms without a reference: {missing:?}");
    assert!(table().names().count() > 1000, "the table is incomplete");
}

#[test]
fn kinds_of_operands() {
    for name in table().names() {
        let kinds = match test_of(name) {
            Some((ty, _)) => {
                assert_eq!(table().find_compare(name).expect(name).operand, kind(ty), "{name}");
                continue;
            }
            None => table().find(name).expect(name).operands,
        };
        let reference = reference(name).expect(name);
        let expected: Vec<Kind> = [reference.result].iter().chain(&reference.sources).map(|ty| kind(*ty)).collect();
        assert_eq!(kinds, expected, "{name}");
    }
}

#[test]
fn forms_give_the_reference() {
    let mut failures = Vec::new();
    let tables = tables();
    for name in table().names().filter(|name| !name.starts_with("setp.")) {
        let Some(reference) = reference(name) else { continue };
        'tuples: for lanes in inputs::tuples(&reference.sources).chunks(32) {
            let expected: Vec<Expected> = lanes.iter().map(|lane| (reference.meaning)(lane)).collect();
            for table in &tables {
                let got = run(table, name, &reference.sources, lanes, u32::MAX, None);
                for (lane, expected) in expected.iter().enumerate() {
                    let expected = match *expected {
                        Expected::Bits(bits) => Expected::Bits(register_bits(reference.result, bits)),
                        other => other,
                    };
                    if !agrees(reference.result, got[lane], expected) {
                        failures.push(format!("{name} of {:x?}: {:x}, expected {expected:x?}", lanes[lane], got[lane]));
                        break 'tuples;
                    }
                }
            }
        }
    }
    failures.sort();
    assert!(failures.is_empty(), "{} forms are wrong:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn partial_masks_leave_other_lanes_alone() {
    let tables = tables();
    for name in table().names().filter(|name| !name.starts_with("setp.")) {
        let Some(reference) = reference(name) else { continue };
        let lanes = inputs::tuples(&reference.sources).into_iter().step_by(11).take(32).collect::<Vec<_>>();
        let kept = if kind(reference.result) == Kind::Bits64 { 0xdead_beef_dead_beef } else { UNTOUCHED as u64 };
        for table in &tables {
            let all = run(table, name, &reference.sources, &lanes, u32::MAX, None);
            for mask in [0, 1, 0x8000_0000, 0x0000_ffff, 0xa5a5_1234, 0x7fff_ffff] {
                let some = run(table, name, &reference.sources, &lanes, mask, None);
                for lane in 0..32 {
                    let expected = if mask >> lane & 1 != 0 { all[lane] } else { kept };
                    assert_eq!(some[lane], expected, "{name}, lane {lane} of mask {mask:x}");
                }
            }
        }
    }
}

#[test]
fn the_result_may_replace_a_source() {
    let tables = tables();
    for name in table().names().filter(|name| !name.starts_with("setp.")) {
        let Some(reference) = reference(name) else { continue };
        let lanes = inputs::tuples(&reference.sources).into_iter().step_by(7).take(32).collect::<Vec<_>>();
        for table in &tables {
            let apart = run(table, name, &reference.sources, &lanes, u32::MAX, None);
            for source in 0..reference.sources.len() {
                let replaced = run(table, name, &reference.sources, &lanes, u32::MAX, Some(source));
                assert_eq!(replaced, apart, "{name} into source {source}");
            }
        }
    }
}

#[test]
fn comparisons_give_the_reference() {
    let tables = tables();
    for name in table().names() {
        let Some((ty, holds)) = test_of(name) else { continue };
        for lanes in inputs::tuples(&[ty; 2]).chunks(32) {
            let mut rows = vec![Row([UNTOUCHED; 32]); 6];
            for (lane, values) in lanes.iter().enumerate() {
                put(&mut rows, 2, lane, ty, values[0]);
                put(&mut rows, 4, lane, ty, values[1]);
            }
            for table in &tables {
                let form = table.find_compare(name).expect(name);
                // SAFETY: the operands are inside the rows; the processor supports the level of the table.
                let mask = unsafe { (form.run)(Rows::new(&mut rows), Reg(2), Reg(4)) };
                for (lane, values) in lanes.iter().enumerate() {
                    let got = mask >> lane & 1 != 0;
                    assert_eq!(got, holds(values[0], values[1]), "{name} of {values:x?}");
                }
            }
        }
    }
}
