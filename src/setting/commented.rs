//! Settings as a TOML file that explains itself.

use std::fmt::Write;

use toml::Table;

use super::overlay::shown;
use super::{Key, Of, Section, Valid};

/// The settings in force as TOML, each key below its doc, its values and its default. Read back, it gives the same settings.
pub fn commented<T: Section + Default>(settings: &Valid<T>) -> String {
    let table = |settings: &T| Table::try_from(settings).expect("valid settings are TOML");
    let mut text = String::from(
        "# Settings: what each key means, the values it may have, its default; then the value in force.\n",
    );
    for note in settings.notes() {
        let _ = writeln!(text, "# note: {note}");
    }
    section(&mut text, T::KEYS, "", &table(settings), &table(&T::default()));
    text
}

/// The values of a section, then the sections inside it, as TOML wants it.
fn section(text: &mut String, keys: &[Key], path: &str, table: &Table, defaults: &Table) {
    for key in keys {
        let (Of::Value { rule, single }, Some(value)) = (&key.of, table.get(key.name)) else { continue };
        text.push('\n');
        comment(text, key);
        let default =
            defaults.get(key.name).map_or(String::new(), |value| format!("; default {}", shown(value, *single)));
        let _ = writeln!(text, "# {rule}{default}");
        let _ = writeln!(text, "{} = {}", key.name, shown(value, *single));
    }
    for key in keys {
        let (Of::Section(inner), Some(table)) = (&key.of, table.get(key.name).and_then(|value| value.as_table()))
        else {
            continue;
        };
        let empty = Table::new();
        let defaults = defaults.get(key.name).and_then(|value| value.as_table()).unwrap_or(&empty);
        let path = if path.is_empty() { key.name.to_string() } else { format!("{path}.{}", key.name) };
        text.push('\n');
        comment(text, key);
        let _ = writeln!(text, "[{path}]");
        section(text, inner, &path, table, defaults);
    }
}

fn comment(text: &mut String, key: &Key) {
    key.doc.iter().for_each(|line| {
        let _ = writeln!(text, "# {}", line.trim());
    });
}
