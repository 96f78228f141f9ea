//! Pieces of HTML: escaping, cutting, tables, and the frame of the page.
//!
//! Text from a model or a file goes through [`escape`]. The page's content policy also forbids scripts and all fetches, so
//! that nothing runs and nothing leaves the reader's machine even if an escape is forgotten.

const STYLE: &str = include_str!("report.css");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Text as HTML, safe inside elements and quoted attributes. Control characters other than line ends and tabs become the
/// replacement character, because HTML does not allow them.
pub fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + text.len() / 16);
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(character),
            // Browsers treat a carriage return before a line end as nothing.
            '\r' => {}
            _ if character.is_control() => html.push('\u{FFFD}'),
            _ => html.push(character),
        }
    }
    html
}

/// The first `limit` characters, escaped, with the number of characters that were left out.
pub fn escape_cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => escape(text),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            format!("{}<span class=\"cut\"> … ({more} more characters)</span>", escape(&text[..end]))
        }
    }
}

/// A section with a heading; `inner` is HTML.
pub fn section(id: &str, title: &str, inner: &str) -> String {
    format!("<section id=\"{id}\">\n<h2>{}</h2>\n{inner}</section>\n", escape(title))
}

/// A paragraph that explains a table, or says why there is nothing to show. `text` is plain.
pub fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

/// A table whose cells are HTML. The first cell of a row is its heading.
pub fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let head: String = header.iter().map(|cell| format!("<th scope=\"col\">{cell}</th>")).collect();
    let row = |cells: &Vec<String>| {
        let cell = |(column, cell): (usize, &String)| match column {
            0 => format!("<th scope=\"row\">{cell}</th>"),
            _ => format!("<td>{cell}</td>"),
        };
        format!("<tr>{}</tr>\n", cells.iter().enumerate().map(cell).collect::<String>())
    };
    let body: String = rows.iter().map(row).collect();
    format!("<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n")
}

/// A plot with its title and what it shows; `svg` is markup.
pub fn figure(title: &str, caption: &str, svg: &str) -> String {
    format!("<figure><h3>{}</h3>\n{svg}<figcaption>{}</figcaption></figure>\n", escape(title), escape(caption))
}

/// A number with its name, and what belongs to it in small letters; to stand in `<ul class="tiles">`.
pub fn tile(name: &str, value: &str, small: &str) -> String {
    let [name, value, small] = [name, value, small].map(escape);
    format!("<li><span>{name}</span><strong>{value}</strong> <small>{small}</small></li>\n")
}

/// The whole document; `title` is plain, `body` is HTML.
pub fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Whether every element is closed in order; elements without content must be written `<x/>`.
    pub(crate) fn check_balanced(html: &str) -> Result<(), String> {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = html;
        while let Some(start) = rest.find('<') {
            rest = &rest[start + 1..];
            let end = rest.find('>').ok_or_else(|| format!("no > after <{:.40}", rest))?;
            let tag = &rest[..end];
            rest = &rest[end + 1..];
            let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap_or("");
            if tag.contains('<') {
                return Err(format!("< inside a tag: {tag}"));
            }
            match tag {
                _ if tag.starts_with('!') || tag.ends_with('/') => {}
                _ if tag.starts_with('/') => match open.pop() {
                    Some(top) if top == name => {}
                    top => return Err(format!("</{name}> closes {top:?}")),
                },
                _ => open.push(name),
            }
        }
        if open.is_empty() { Ok(()) } else { Err(format!("not closed: {open:?}")) }
    }

    #[test]
    fn the_checker_can_fail() {
        assert!(check_balanced("<p>a<br/>b</p>").is_ok());
        for broken in ["<p>", "</p>", "<p><b></p></b>", "<p", "<p <b>"] {
            assert!(check_balanced(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escape("<script>\"&'\u{0}\r\n"), "&lt;script&gt;&quot;&amp;&#39;\u{FFFD}\n");
        assert_eq!(escape_cut("añ<b>", 3), "añ&lt;<span class=\"cut\"> … (2 more characters)</span>");
        assert_eq!(escape_cut("añ<", 3), "añ&lt;");
    }

    #[test]
    fn the_frame_is_well_formed() {
        let cells = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
        let inner = table(&cells(["a", "b"]), &[cells(["x", "1"])]) + &note("a < b");
        check_balanced(&document("run <1>", &section("s", "R & D", &inner))).unwrap();
    }
}
