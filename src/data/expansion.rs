//! How far a compressed file expands.

/// Bytes that any file may expand to.
const FREE: u64 = 1 << 30;
/// Beyond them: as many bytes as come of one. Text packs to a tenth, a file of rows that are all the same to a hundredth; a
/// bomb to less than a thousandth.
const RATIO_MAX: u64 = 1000;

/// An error if `read` bytes of a file have become `made` bytes and that is too many. Memory does not depend on it, but the time
/// that a small file takes does.
pub(super) fn check_expansion(read: u64, made: u64) -> Result<(), String> {
    if made > FREE && made / RATIO_MAX > read {
        return Err(format!(
            "expands to more than {RATIO_MAX} times its size; if that is right, unpack it and give the unpacked file"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_expand_by_a_thousand_and_a_small_one_by_more() {
        assert!(check_expansion(1, FREE).is_ok());
        assert!(check_expansion(FREE / 500, FREE + 1).is_ok());
        let said = check_expansion(FREE / 2000, FREE + 1).unwrap_err();
        assert!(said.contains("1000 times its size"), "{said}");
    }
}
