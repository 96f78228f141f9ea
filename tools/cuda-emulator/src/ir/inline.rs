//! Inlining: every call is replaced by the body of its function.
//!
//! Hardware executes calls. nvcc leaves few of them in kernels (slow paths of double precision functions,
//! `__noinline__`), and none is deep, so copies are cheap and the machine needs no call stack.

use crate::ptx::{Entry, Function, Item, Module, Operand, Statement};

/// One step of a body with inlined calls.
#[derive(Clone, Copy)]
pub enum Step<'a> {
    Item(&'a Item<'a>),
    /// The start of a function's body, with the call that supplies the operands.
    Enter(&'a Function<'a>, &'a Statement<'a>),
    Leave,
}

/// Maximum nesting of calls. Deeper nesting is recursion, or too large to copy.
const DEEPEST: usize = 16;
/// A limit for bodies that call each other many times.
const MOST_STEPS: usize = 1 << 20;

/// The body of a kernel, step by step. Calls that cannot be inlined (no body, recursion, a guard) stay and are refused
/// later.
pub fn steps<'a>(module: &'a Module<'a>, entry: &'a Entry<'a>) -> Vec<Step<'a>> {
    let mut steps = Vec::with_capacity(entry.body.len());
    inline_calls(module, &entry.body, 0, &mut steps);
    steps
}

fn inline_calls<'a>(module: &'a Module<'a>, body: &'a [Item<'a>], depth: usize, steps: &mut Vec<Step<'a>>) {
    for item in body {
        if let Item::Statement(call) = item
            && let Some(function) = callee(module, call)
            && let Some(body) = &function.body
            && depth < DEEPEST
            && steps.len() < MOST_STEPS
        {
            steps.push(Step::Enter(function, call));
            inline_calls(module, body, depth + 1, steps);
            steps.push(Step::Leave);
        } else {
            steps.push(Step::Item(item));
        }
    }
}

fn callee<'a>(module: &'a Module<'a>, call: &Statement<'a>) -> Option<&'a Function<'a>> {
    if !matches!(call.opcode, "call" | "call.uni") || call.guard.is_some() {
        return None;
    }
    let (_, name, _) = call_operands(call)?;
    // A function may be declared before it is defined.
    module.functions.iter().filter(|function| function.name == name).max_by_key(|function| function.body.is_some())
}

/// Results, name and arguments of `call (results), name, (arguments)`.
pub fn call_operands<'s, 'a>(call: &'s Statement<'a>) -> Option<(&'s [Operand<'a>], &'a str, &'s [Operand<'a>])> {
    match call.operands.as_slice() {
        [Operand::Name(name)] => Some((&[], name, &[])),
        [Operand::List(results), Operand::Name(name)] => Some((results, name, &[])),
        [Operand::Name(name), Operand::List(arguments)] => Some((&[], name, arguments)),
        [Operand::List(results), Operand::Name(name), Operand::List(arguments)] => Some((results, name, arguments)),
        _ => None,
    }
}
