//! Calls, written out: the body of a function stands in place of each call of it.
//!
//! Hardware calls; nvcc leaves few calls in kernels (slow paths of double precision functions, `__noinline__`), none of
//! them deep, so copies are cheap and the machine needs no call stack.

use crate::ptx::{Entry, Function, Item, Module, Operand, Statement};

/// A body with its calls written out.
#[derive(Clone, Copy)]
pub enum Step<'a> {
    Item(&'a Item<'a>),
    /// The body of the function begins, with the operands of this call.
    Enter(&'a Function<'a>, &'a Statement<'a>),
    Leave,
}

/// Functions within functions within …: deeper is a recursion, or not worth its copies.
const DEEPEST: usize = 16;
/// A bound for bodies that call each other many times.
const MOST_STEPS: usize = 1 << 20;

/// The body of a kernel, step by step. Calls that cannot be written out (no body, a recursion, a guard) stay, to be
/// refused where they stand.
pub fn steps<'a>(module: &'a Module<'a>, entry: &'a Entry<'a>) -> Vec<Step<'a>> {
    let mut steps = Vec::with_capacity(entry.body.len());
    write_out(module, &entry.body, 0, &mut steps);
    steps
}

fn write_out<'a>(module: &'a Module<'a>, body: &'a [Item<'a>], depth: usize, steps: &mut Vec<Step<'a>>) {
    for item in body {
        if let Item::Statement(call) = item
            && let Some(function) = callee(module, call)
            && let Some(body) = &function.body
            && depth < DEEPEST
            && steps.len() < MOST_STEPS
        {
            steps.push(Step::Enter(function, call));
            write_out(module, body, depth + 1, steps);
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
    // A function may be declared first and defined later.
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
