//! Numbers of things, in words.

use std::fmt::Display;

/// A number of things whose plural ends in `s`: `1 row`, `2 rows`.
pub fn counted(number: impl TryInto<u128> + Display + Copy, thing: &str) -> String {
    let one = number.try_into().is_ok_and(|number| number == 1);
    format!("{number} {thing}{}", if one { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_thing_is_no_several() {
        let said = [counted(0usize, "row"), counted(1u64, "row"), counted(2u128, "row"), counted(1usize, "bad row")];
        assert_eq!(said, ["0 rows", "1 row", "2 rows", "1 bad row"]);
    }
}
