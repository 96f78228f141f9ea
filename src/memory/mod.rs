//! Accounts of memory: what every buffer is for, in which phase it exists, and the most that there was of it at a time.
//!
//! All devices keep the same [`Ledger`]: the CPU's, a GPU's, and the one on paper that a plan is made with.

pub mod free_list;
pub mod ledger;
pub mod phase;

pub use free_list::FreeList;
pub use ledger::{Entry, Ledger, Peak};
pub use phase::{Phase, during, label, labelled};

/// Bytes for people: `512 B`, `3.4 MiB`, `79.1 GiB`.
pub fn bytes_text(bytes: usize) -> String {
    let units = [(1usize << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// Bytes as people write them: `80GiB`, `128 MiB`, `24GB`, `1000000`. GB and GiB are told apart.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (text[..digits].parse::<f64>(), text[digits..].trim().to_ascii_lowercase());
    let scale = match unit.as_str() {
        "" | "b" => 1.0,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1024f64.powi(2),
        "gib" | "g" => 1024f64.powi(3),
        "tib" | "t" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(format!("`{text}`: expected a number of bytes such as 80GiB, 24GB or 128MiB")),
    };
    match number {
        Ok(number) if number > 0.0 && number * scale < 1e18 => Ok((number * scale) as usize),
        _ => Err(format!("`{text}`: expected a number of bytes such as 80GiB, 24GB or 128MiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_parsed_as_people_write_them() {
        for (text, bytes) in
            [("80GiB", 80 << 30), ("128 MiB", 128 << 20), ("24GB", 24_000_000_000), ("1000", 1000), ("1.5g", 3 << 29)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "12 parsecs", "-1", "0", "1e9", "9999999TiB", "1.2.3GB"] {
            let message = parse_bytes(text).unwrap_err();
            assert!(message.contains("such as 80GiB") && message.contains(text), "{message}");
        }
    }

    #[test]
    fn bytes_are_read_in_their_unit() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (80 << 30, "80.0 GiB")]
        {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}
