//! Which parameters of a kernel are pointers. PTX declares them as 64-bit numbers; what tells is that the kernel turns
//! the loaded value into an address of global memory (`cvta.to.global`), or a `.ptr` in the declaration.

use std::collections::{BTreeMap, BTreeSet};

/// Kernel name → parameter name → byte offsets in the parameter that are pointers.
pub type Pointers = BTreeMap<String, BTreeMap<String, BTreeSet<usize>>>;

/// Reads the pointers of all kernels from PTX text. Text that is not PTX gives nothing.
pub fn pointers(ptx: &str) -> Pointers {
    let mut found = Pointers::new();
    let mut kernel: Option<String> = None;
    // Register → (parameter, offset) that it was loaded from, in the kernel at hand.
    let mut loaded: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for line in ptx.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some((_, name)) = line.split_once(".entry ") {
            let name = name.trim().split(['(', ' ']).next().unwrap_or_default();
            kernel = Some(name.to_owned());
            loaded.clear();
            continue;
        }
        let Some(kernel) = &kernel else { continue };
        let mut note = |parameter: &str, offset: usize| {
            let parameters = found.entry(kernel.clone()).or_default();
            parameters.entry(parameter.to_owned()).or_default().insert(offset);
        };
        if line.starts_with(".param") && line.contains(".ptr") {
            note(line.split_whitespace().last().unwrap_or_default().trim_matches(','), 0);
        } else if let Some(operands) = line.strip_prefix("ld.param.") {
            loaded.extend(loads(operands));
        } else if let Some(operands) = line.strip_prefix("cvta.to.global.u64") {
            let source = operands.trim().trim_end_matches(';').rsplit(',').next().unwrap_or_default().trim();
            if let Some((parameter, offset)) = loaded.get(source) {
                note(parameter, *offset);
            }
        }
    }
    found
}

/// Registers that a load of 64-bit parameters fills, with where from: `u64 %rd1, [p+8];` or
/// `v2.u64 {%rd1, %rd2}, [p];`.
fn loads(operands: &str) -> Vec<(&str, (&str, usize))> {
    let parse = || {
        let (kind, rest) = operands.split_once(char::is_whitespace)?;
        if !matches!(kind.rsplit('.').next()?, "u64" | "b64" | "s64") {
            return None;
        }
        let (registers, address) = rest.split_once('[')?;
        let address = address.split(']').next()?;
        let (parameter, offset) = address.split_once('+').unwrap_or((address, "0"));
        let offset: usize = offset.trim().parse().ok()?;
        let names = registers.split(',').map(|name| name.trim().trim_matches(['{', '}', ' ']));
        let names = names.filter(|name| !name.is_empty());
        Some(names.enumerate().map(|(place, name)| (name, (parameter.trim(), offset + 8 * place))).collect())
    };
    parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_told_from_numbers() {
        let found = pointers(
            "
.visible .entry scale( // the first
	.param .u64 a,
	.param .u64 .ptr .align 4 b,
	.param .u64 number,
	.param .align 8 .b8 meta[24]
)
{
	ld.param.u64 	%rd1, [a];
	ld.param.u64 	%rd2, [number];
	ld.param.v2.u64 	{%rd3, %rd4}, [meta+8];
	cvta.to.global.u64 	%rd5, %rd1;
	cvta.to.global.u64 	%rd6, %rd4;
	add.s64 	%rd7, %rd2, 1;
}
.visible .entry other(.param .u64 a)
{
	cvta.to.global.u64 	%rd5, %rd1;
}",
        );
        let of = |parameter: &str| found["scale"].get(parameter).cloned().unwrap_or_default();
        assert_eq!(of("a"), BTreeSet::from([0]));
        assert_eq!(of("b"), BTreeSet::from([0]));
        assert_eq!(of("number"), BTreeSet::new());
        assert_eq!(of("meta"), BTreeSet::from([16]));
        assert!(!found.contains_key("other"), "registers of another kernel count for nothing");
    }

    #[test]
    fn nonsense_gives_nothing() {
        for text in ["", "ld.param.u64", ".entry ", ".entry x(\nld.param.u64 %r, [p+x];\ncvta.to.global.u64 ;", "["] {
            assert_eq!(pointers(text), Pointers::new(), "{text:?}");
        }
    }
}
