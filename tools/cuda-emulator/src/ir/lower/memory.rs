//! `ld`, `st`, `cvta`, `prefetch`: modifiers in the order of PTX ISA 9.7.9.

use super::Lowering;
use super::modifiers::Modifiers;
use super::names::Named;
use super::operands::{exactly, shown};
use crate::forms::Kind;
use crate::ir::error::{Lowered, Refusal, refuse};
use crate::ir::{Access, Op, Reg, Space};
use crate::ptx::{Base, Operand, Statement};

/// Ordered accesses, which are strong in the memory model; a scope follows.
const ORDERED: &[&str] = &["relaxed", "acquire", "release"];
pub const SCOPES: &[&str] = &["cta", "gpu", "sys"];

pub const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("const", Space::Constant),
];

/// Cache hints, which do not affect values.
const CACHE: &[&str] = &["ca", "cg", "cs", "lu", "cv", "wb", "wt"];
const EVICTION: &[&str] = &[
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "evict_first",
    "evict_last",
    "evict_normal",
    "no_allocate",
];
const PREFETCH_SIZE: &[&str] = &["L2::64B", "L2::128B", "L2::256B"];
const VECTORS: &[(&str, usize)] = &[("v2", 2), ("v4", 4)];

/// Size in bytes, and whether the value is sign-extended.
const TYPES: &[(&str, (u8, bool))] = &[
    ("b8", (1, false)),
    ("u8", (1, false)),
    ("s8", (1, true)),
    ("b16", (2, false)),
    ("u16", (2, false)),
    ("s16", (2, true)),
    ("b32", (4, false)),
    ("u32", (4, false)),
    ("s32", (4, true)),
    ("f32", (4, false)),
    ("b64", (8, false)),
    ("u64", (8, false)),
    ("s64", (8, true)),
    ("f64", (8, false)),
];

const PREFETCHES: &[&str] = &[
    "prefetch.global.L1",
    "prefetch.global.L2",
    "prefetch.global.L2::evict_last",
    "prefetch.global.L2::evict_normal",
    "prefetch.local.L1",
    "prefetch.local.L2",
    "prefetch.L1",
    "prefetch.L2",
    "prefetchu.L1",
];

pub fn register_bytes(kind: Kind) -> u8 {
    match kind {
        Kind::Bits16 => 2,
        Kind::Bits32 => 4,
        Kind::Bits64 => 8,
    }
}

/// The parsed opcode of an access.
struct Form {
    /// None: `.param`.
    access: Option<Space>,
    bytes: u8,
    signed: bool,
    strong: bool,
    read_only: bool,
    vector: usize,
}

impl Form {
    fn read(m: &mut Modifiers) -> Lowered<Form> {
        let ordered = m.skip(ORDERED);
        if ordered && !m.skip(SCOPES) {
            return Err(Refusal::UnknownForm);
        }
        let strong = ordered || m.skip(&["volatile"]);
        m.skip(&["weak"]);
        let is_parameter = m.skip(&["param"]);
        let space = m.take(SPACES).unwrap_or(Space::Generic);
        m.skip(CACHE);
        let read_only = m.skip(&["nc"]);
        m.skip(EVICTION);
        m.skip(PREFETCH_SIZE);
        let vector = m.take(VECTORS).unwrap_or(1);
        let (bytes, signed) = m.last(TYPES)?;
        if bytes as usize * vector > 16 || (is_parameter && (space != Space::Generic || strong || read_only)) {
            return Err(Refusal::UnknownForm);
        }
        let access = (!is_parameter).then_some(space);
        Ok(Form { access, bytes, signed, strong, read_only, vector })
    }

    fn access(&self, kind: Kind) -> Lowered<Access> {
        let register = register_bytes(kind);
        if register < self.bytes {
            return refuse(format!("registers of {register} bytes for elements of {}", self.bytes));
        }
        Ok(Access {
            space: self.access.unwrap_or(Space::Generic),
            bytes: self.bytes,
            signed: self.signed,
            register,
            strong: self.strong,
            read_only: self.read_only,
        })
    }
}

impl<'a> Lowering<'a> {
    pub fn load(&mut self, s: &'a Statement<'a>, mut m: Modifiers) -> Lowered<()> {
        let form = Form::read(&mut m)?;
        let [d, address] = exactly(s)?;
        let (regs, kind) = self.targets(d, form.vector)?;
        let access = form.access(kind)?;
        if form.access.is_none() {
            return match self.slot(address)? {
                Some((slot, offset)) => self.load_from_slot(slot, offset, form.bytes, &regs, kind),
                None => self.load_parameter(access, &regs, address),
            };
        }
        let address = self.address(address)?;
        let d = self.list(&regs);
        self.emit(Op::Load { access, d, address });
        Ok(())
    }

    fn load_parameter(&mut self, access: Access, regs: &[Reg], address: &Operand<'a>) -> Lowered<()> {
        let Operand::Address(Base::Name(name), offset) = address else {
            return refuse(format!("`ld.param` of {}: expected a parameter", shown(address)));
        };
        let Some(Named::Parameter(index)) = self.names.find(name)? else {
            return refuse(format!("`ld.param` of `{name}`, which is not a parameter of the kernel"));
        };
        let parameter = &self.parameters[index as usize];
        let bytes = access.bytes as i64 * regs.len() as i64;
        if *offset < 0 || *offset > parameter.size as i64 - bytes || offset % bytes != 0 {
            let size = parameter.size;
            return refuse(format!("{bytes} bytes at {offset} of `{name}`, which has {size}"));
        }
        let (within, offset) = (*offset as u32, parameter.offset + *offset as u32);
        for (n, reg) in regs.iter().enumerate() {
            self.loaded.insert(*reg, (index, within + n as u32 * access.bytes as u32));
        }
        let d = self.list(regs);
        self.emit(Op::LoadParameter { access, d, offset });
        Ok(())
    }

    pub fn store(&mut self, s: &'a Statement<'a>, mut m: Modifiers) -> Lowered<()> {
        let form = Form::read(&mut m)?;
        if form.read_only || form.access == Some(Space::Constant) {
            return Err(Refusal::UnknownForm);
        }
        let [address, value] = exactly(s)?;
        let kind = self.stored_kind(value, &form)?;
        let regs = self.sources(value, form.vector, kind)?;
        let access = form.access(kind)?;
        if form.access.is_none() {
            return match self.slot(address)? {
                Some((slot, offset)) => self.store_in_slot(slot, offset, form.bytes, &regs, kind),
                None => refuse(format!("`{}` to {}, which is not a `.param` of this body", s.opcode, shown(address))),
            };
        }
        let address = self.address(address)?;
        let a = self.list(&regs);
        self.emit(Op::Store { access, a, address });
        Ok(())
    }

    /// The width of the stored registers: that of the first one; for literals, that of the type.
    fn stored_kind(&mut self, value: &Operand<'a>, form: &Form) -> Lowered<Kind> {
        for part in self.parts(value, form.vector)? {
            if let Operand::Name(_) = part {
                return Ok(self.source_of_any_width(part)?.1);
            }
        }
        Ok(match form.bytes {
            8 => Kind::Bits64,
            4 => Kind::Bits32,
            _ => Kind::Bits16,
        })
    }

    /// `cvta.SPACE.u64` and `cvta.to.SPACE.u64`. Global addresses equal their generic addresses; constants are in
    /// global memory.
    pub fn convert_address(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let (space, to_space) = match s.opcode {
            "cvta.global.u64" | "cvta.const.u64" => (Space::Global, false),
            "cvta.to.global.u64" | "cvta.to.const.u64" => (Space::Global, true),
            "cvta.shared.u64" => (Space::Shared, false),
            "cvta.to.shared.u64" => (Space::Shared, true),
            "cvta.local.u64" => (Space::Local, false),
            "cvta.to.local.u64" => (Space::Local, true),
            _ => return Err(Refusal::UnknownForm),
        };
        let [d, a] = exactly(s)?;
        let a = match self.variable(a)? {
            Some((variable, offset)) => self.variable_address(variable, offset, Kind::Bits64)?,
            None => self.source(a, Kind::Bits64)?,
        };
        if to_space && let Some((index, offset)) = self.loaded.get(&a) {
            let pointers = &mut self.parameters[*index as usize].pointers;
            if !pointers.contains(offset) {
                pointers.push(*offset);
            }
        }
        let d = self.target(d, Kind::Bits64)?;
        if space == Space::Global {
            return self.copy(Kind::Bits64, d, a);
        }
        self.emit(Op::ConvertAddress { d, a, space, to_space });
        Ok(())
    }

    /// A hint: the address is not checked.
    pub fn prefetch(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        if !PREFETCHES.contains(&s.opcode) {
            return Err(Refusal::UnknownForm);
        }
        let [address] = exactly(s)?;
        self.address(address)?;
        self.emit(Op::Nothing);
        Ok(())
    }
}
