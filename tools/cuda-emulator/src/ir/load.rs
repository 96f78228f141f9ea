//! PTX text → [`Program`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::error::{ErrorLocation, LoadError, Refusal};
use super::inline::{self, Step};
use super::lower::{Lowering, Named, Surroundings, Virtual};
use super::{Kernel, Parameter, Program, SourceLine, Symbol, control_flow, rows};
use crate::ptx::{self, Entry, Item, Module, Operand, Space, Variable};

/// CUDA's limit for the threads of a block.
const MOST_THREADS: u32 = 1024;
/// The maximum size of kernel parameters in bytes (32,764 since PTX 8.1 on sm_70).
const MOST_PARAMETER_BYTES: u64 = 32_764;
/// Alignment of dynamic shared memory, regardless of its declaration.
const DYNAMIC_SHARED_ALIGN: u32 = 16;

impl Program {
    /// # Errors
    /// Something that the emulator does not support; an unknown instruction is named with its form and source line.
    pub fn load(text: &str) -> Result<Program, LoadError> {
        Program::load_and(text, |kernel, virtuals| rows::assign(kernel, &virtuals))
    }

    /// `complete` gets each kernel with its virtual registers, which are still the operands of its code.
    pub(super) fn load_and(
        text: &str,
        mut complete: impl FnMut(&mut Kernel, Vec<Virtual>),
    ) -> Result<Program, LoadError> {
        let module = ptx::parse(text)?;
        let mut lines = Lines::new(&module);
        let mut symbols = Vec::new();
        let mut names = Vec::new();
        for variable in &module.variables {
            if matches!(variable.space, Space::Global | Space::Const) {
                names.push((variable.name, Named::Global(symbols.len() as u32)));
                symbols.push(symbol(variable)?);
            }
        }
        let mut kernels = Vec::with_capacity(module.entries.len());
        for entry in &module.entries {
            let (mut kernel, virtuals) = kernel(&module, entry, &names, &mut lines)?;
            complete(&mut kernel, virtuals);
            kernel.registers = kernel.registers.min(register_limit(entry));
            kernels.push(kernel);
        }
        let target = (module.target.major, module.target.minor);
        Ok(Program { target, kernels, symbols, lines: lines.all })
    }
}

fn symbol(variable: &Variable) -> Result<Symbol, LoadError> {
    let invalid = |message: String| LoadError::Invalid {
        message,
        location: ErrorLocation { kernel: String::new(), source: None, ptx_line: variable.line },
    };
    if variable.external {
        return Err(invalid(format!("`{}` is `.extern`, but modules are not linked", variable.name)));
    }
    let size = variable.bytes();
    let bytes = if variable.initial.is_empty() {
        None
    } else {
        // An initialiser of one number can declare a long array; tables in real modules have kilobytes.
        if size > 1 << 26 {
            return Err(invalid(format!("`{}` has {size} bytes and an initialiser", variable.name)));
        }
        let mut bytes = variable.initial.clone();
        bytes.resize(size as usize, 0);
        Some(bytes)
    };
    let constant = variable.space == Space::Const;
    Ok(Symbol { name: variable.name.to_string(), size, align: variable.align as u64, bytes, constant })
}

fn kernel<'a>(
    module: &'a Module<'a>,
    entry: &'a Entry<'a>,
    globals: &[(&'a str, Named)],
    lines: &mut Lines<'a>,
) -> Result<(Kernel, Vec<Virtual>), LoadError> {
    let at_entry = |refusal| located(refusal, lines, entry, "", None, entry.line);
    let steps = inline::steps(module, entry);
    let layout = Layout::of(module, &steps).map_err(|message| at_entry(Refusal::Invalid(message)))?;
    let mut names = globals.to_vec();
    names.extend(layout.shared_names.iter().copied());
    let parameters = parameters(entry, &mut names).map_err(|message| at_entry(Refusal::Invalid(message)))?;
    let parameter_bytes = parameters.last().map_or(0, |last| last.offset + last.size);
    let surroundings = Surroundings { names, parameters, offsets: layout.offsets };
    let mut lowering = Lowering::new(surroundings).map_err(at_entry)?;
    for step in steps {
        let (opcode, location, line) = origin(step).unwrap_or(("", None, entry.line));
        let source = lines.index(location, line);
        let done = match step {
            Step::Item(item) => lowering.item(item, source),
            Step::Enter(function, call) => lowering.enter(function, call, source),
            Step::Leave => lowering.leave(),
        };
        done.map_err(|refusal| located(refusal, lines, entry, opcode, location, line))?;
    }
    let body = lowering.finish().map_err(|refusal| located(refusal, lines, entry, "", None, entry.line))?;
    let mut kernel = Kernel {
        name: entry.name.to_string(),
        parameters: body.parameters,
        parameter_bytes,
        static_shared: layout.static_shared,
        dynamic_shared_offset: layout.dynamic_shared,
        local_bytes: layout.local,
        max_threads: entry.required_threads.or(entry.max_threads).map_or(MOST_THREADS, block_threads),
        required_block: entry.required_threads,
        registers: 0,
        rows: 0,
        predicates: body.predicates,
        constants: Vec::new(),
        code: body.code,
        lists: body.lists,
        targets: body.targets,
    };
    control_flow::set_reconvergence(&mut kernel.code, &kernel.targets);
    Ok((kernel, body.virtuals))
}

/// Opcode, location index and PTX line of a step that has them.
fn origin<'a>(step: Step<'a>) -> Option<(&'a str, Option<u32>, u32)> {
    match step {
        Step::Item(Item::Statement(statement)) | Step::Enter(_, statement) => {
            Some((statement.opcode, statement.location, statement.line))
        }
        Step::Item(Item::Registers(registers)) => Some((".reg", None, registers.line)),
        Step::Item(Item::Variable(variable)) => Some(("", None, variable.line)),
        Step::Item(Item::Label { line, .. }) => Some(("", None, *line)),
        Step::Item(Item::BranchTargets { .. } | Item::Open | Item::Close) | Step::Leave => None,
    }
}

fn block_threads(sizes: [u32; 3]) -> u32 {
    sizes.iter().fold(1_u32, |product, n| product.saturating_mul(*n)).clamp(1, MOST_THREADS)
}

/// The maximum number of registers per thread: a block of the declared size has 65,536.
fn register_limit(entry: &Entry) -> u32 {
    match entry.required_threads.or(entry.max_threads) {
        Some(sizes) => (65_536 / block_threads(sizes).next_multiple_of(32) / 8 * 8).min(255),
        None => 255,
    }
}

fn located(
    refusal: Refusal,
    lines: &Lines,
    entry: &Entry,
    opcode: &str,
    location: Option<u32>,
    line: u32,
) -> LoadError {
    let source = location.map(|location| lines.source(location)).map(|(file, line)| (file.to_string(), line));
    let location = ErrorLocation { kernel: entry.name.to_string(), source, ptx_line: line };
    match refusal {
        Refusal::UnknownForm => LoadError::UnknownForm { form: opcode.to_string(), location },
        Refusal::Invalid(message) => LoadError::Invalid { message, location },
    }
}

/// Lays out the parameters in order, each at its alignment.
fn parameters<'a>(entry: &Entry<'a>, names: &mut Vec<(&'a str, Named)>) -> Result<Vec<Parameter>, String> {
    let mut parameters = Vec::with_capacity(entry.parameters.len());
    let mut end = 0_u64;
    for (index, variable) in entry.parameters.iter().enumerate() {
        let offset = end.next_multiple_of(variable.align as u64);
        let size = variable.bytes();
        end = offset.saturating_add(size);
        if end > MOST_PARAMETER_BYTES {
            return Err(format!("the parameters take more than {MOST_PARAMETER_BYTES} bytes"));
        }
        names.push((variable.name, Named::Parameter(index as u32)));
        let (offset, size) = (offset as u32, size as u32);
        parameters.push(Parameter { offset, size, align: variable.align, pointers: Vec::new() });
    }
    Ok(parameters)
}

/// The offsets of a kernel's shared and local variables.
#[derive(Default)]
struct Layout<'a> {
    /// Offsets of the body's variables, in declaration order.
    offsets: Vec<u32>,
    /// Module-scope `.shared` variables that the kernel uses.
    shared_names: Vec<(&'a str, Named)>,
    static_shared: u32,
    dynamic_shared: u32,
    local: u32,
}

impl<'a> Layout<'a> {
    fn of(module: &'a Module<'a>, steps: &[Step<'a>]) -> Result<Self, String> {
        let mut layout = Layout::default();
        let (mut shared, mut local) = (0, 0);
        for step in steps {
            if let Step::Item(Item::Variable(variable)) = step {
                match variable.space {
                    Space::Shared => layout.offsets.push(allocate(&mut shared, variable)?),
                    Space::Local => layout.offsets.push(allocate(&mut local, variable)?),
                    _ => {}
                }
            }
        }
        let named = names_in(steps);
        let (sized, dynamic): (Vec<_>, Vec<_>) = module
            .variables
            .iter()
            .filter(|variable| variable.space == Space::Shared && named.contains(variable.name))
            .partition(|variable| variable.count.is_some());
        for variable in sized {
            layout.shared_names.push((variable.name, Named::Shared(allocate(&mut shared, variable)?)));
        }
        layout.static_shared = shared;
        let align = dynamic.iter().map(|variable| variable.align).max().unwrap_or(1).max(DYNAMIC_SHARED_ALIGN);
        layout.dynamic_shared = shared.next_multiple_of(align);
        for variable in dynamic {
            layout.shared_names.push((variable.name, Named::Shared(layout.dynamic_shared)));
        }
        layout.local = local;
        Ok(layout)
    }
}

/// Allocates a variable at the next aligned offset.
fn allocate(end: &mut u32, variable: &Variable) -> Result<u32, String> {
    let offset = (*end as u64).next_multiple_of(variable.align as u64);
    let new_end = offset.saturating_add(variable.bytes());
    // Far above any GPU: 227 KiB of shared memory per block, 512 KiB of local memory per thread.
    if new_end > 1 << 24 {
        return Err(format!("`{}` and the variables before it take {new_end} bytes", variable.name));
    }
    *end = new_end as u32;
    Ok(offset as u32)
}

/// All names that occur in operands.
fn names_in<'a>(steps: &[Step<'a>]) -> HashSet<&'a str> {
    fn collect<'a>(operands: &'a [Operand<'a>], names: &mut HashSet<&'a str>) {
        for operand in operands {
            match operand {
                Operand::Name(name) | Operand::Offset(name, _) | Operand::Address(ptx::Base::Name(name), _) => {
                    names.insert(name);
                }
                Operand::Vector(parts) | Operand::List(parts) => collect(parts, names),
                _ => {}
            }
        }
    }
    let mut names = HashSet::new();
    for step in steps {
        if let Step::Item(Item::Statement(statement)) = step {
            collect(&statement.operands, &mut names);
        }
    }
    names
}

/// The table of source lines.
struct Lines<'a> {
    locations: &'a [ptx::Location],
    files: HashMap<u32, Arc<str>>,
    unknown: Arc<str>,
    all: Vec<SourceLine>,
    known: HashMap<(Option<u32>, u32), u32>,
}

impl<'a> Lines<'a> {
    fn new(module: &'a Module<'a>) -> Self {
        let files = module.files.iter().map(|(number, path)| (*number, Arc::from(*path))).collect();
        let unknown: Arc<str> = "PTX".into();
        let all = vec![SourceLine { file: unknown.clone(), line: 0 }];
        Lines { locations: &module.locations, files, unknown, all, known: HashMap::new() }
    }

    /// The index of a source line; without one, of the PTX line.
    fn index(&mut self, location: Option<u32>, ptx_line: u32) -> u32 {
        let key = (location, if location.is_some() { 0 } else { ptx_line });
        if let Some(index) = self.known.get(&key) {
            return *index;
        }
        let line = match location {
            Some(location) => {
                let (file, line) = self.source(location);
                SourceLine { file, line }
            }
            None => SourceLine { file: self.unknown.clone(), line: ptx_line },
        };
        let index = self.all.len() as u32;
        self.all.push(line);
        self.known.insert(key, index);
        index
    }

    /// The innermost line outside the toolkit's headers, because that is code the user can change.
    fn source(&self, location: u32) -> (Arc<str>, u32) {
        let mut next = Some(location);
        // inlined_at points backwards, so the loop ends.
        while let Some(location) = next.and_then(|next| self.locations.get(next as usize)) {
            if let Some(file) = self.files.get(&location.file)
                && !file.contains("/include/")
            {
                return (file.clone(), location.line);
            }
            next = location.inlined_at;
        }
        let location = self.locations[location as usize];
        (self.files.get(&location.file).unwrap_or(&self.unknown).clone(), location.line)
    }
}
