//! What a reader sees of a text: escapes read, characters that look alike made one, and what is not seen left out.

use std::collections::HashMap;
use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::confusable_detection::skeleton;

/// Letters with strokes and hooks and small capitals, from a to z, that no table of Unicode lists as look-alikes.
const LETTERS: [&str; 26] = [
    "Ⱥᴀᶏⱥ",
    "ƀƁƂƃɃɓʙᵬᶀꞖꞗ",
    "ƇƈȻȼɕᴄꞒꞓꞔꟄ",
    "ĐđƊƋƌȡɖɗᴅᵭᶁᶑꟇꟈ",
    "Ɇɇᴇᶒⱸꬴ",
    "ƑƒᵮᶂꜰꞘꞙ",
    "ƓǤǥɠɢʛᶃꞠꞡ",
    "ĦħɦʜⱧⱨꞕꞪ",
    "Ɨɨɪᵻᶖ",
    "ɈɉʝᴊꞲ",
    "ƘƙᴋᶄⱩⱪꝀꝁꝂꝃꝄꝅꞢꞣ",
    "ŁłƚȴȽɫɬɭʟᴌᶅⱠⱡⱢꝈꝉꞎꞭꬷꬸꬹ",
    "ɱᴍᵯᶆⱮꬺ",
    "ƝƞȠȵɲɳɴᵰᶇꞐꞑꞤꞥꬻ",
    "ØøƟᴏⱺꝊꝋꝌꝍ",
    "ƤƥᴘᵱᵽᶈⱣꝐꝑꝒꝓꝔꝕ",
    "ɋʠꝖꝗꝘꝙꞯ",
    "ɌɍɼɽɾʀᵲᵳᶉⱤꞦꞧꭆꭉ",
    "ȿʂᵴᶊⱾꜱꞨꞩꟅꟉꟊ",
    "ŦŧƫƬƭƮȶȾʈᴛᵵⱦ",
    "ᴜᵾᶙꞸꞹꭎꭒ",
    "ƲʋᴠᶌⱱⱴꝞꝟ",
    "ᴡⱲⱳ",
    "ᶍꭖꭗꭘꭙ",
    "ƳƴɎɏʏỾỿꭚ",
    "ƵƶȤȥɀʐʑᴢᵶᶎⱫⱬⱿꟆ",
];
/// Letters that one character shows, at most: a few show whole sentences.
const LOOK_MAX: usize = 4;
/// Signs that look like another, which no table of Unicode lists as such.
const SIGNS: [(char, &str); 11] = [
    ('<', "«≪〈〈⟨⟪《❬❰⦑ᐸ⋖‹˂❮≺⧼"),
    ('>', "»≫〉〉⟩⟫》❭❱⦒ᐳ⋗›˃❯≻⧽"),
    ('[', "【〔〖⟦⁅❲「『"),
    (']', "】〕〗⟧⁆❳」』"),
    ('/', "\\∕⁄⧸╱⟋⧵╲∖⟍"),
    ('|', "¦ǀ∣│┃⏐❘❙❚⎮￨⼁׀"),
    ('-', "–—―─━ー⁃−⸺⸻‒‑﹘"),
    ('=', "═⹀꓿゠᐀≡"),
    ('#', "♯⌗⋕"),
    ('*', "∗⁎＊✱✲٭⚹✻✽"),
    ('\'', "`"),
];
/// HTML's names for the signs of frames, and for what is not seen. `<`, `>`, `&` and `"` are also read without a semicolon.
const ENTITIES: [(&str, char); 30] = [
    ("lt;", '<'),
    ("lt", '<'),
    ("gt;", '>'),
    ("gt", '>'),
    ("amp;", '&'),
    ("amp", '&'),
    ("quot;", '"'),
    ("quot", '"'),
    ("sol;", '/'),
    ("bsol;", '\\'),
    ("lsqb;", '['),
    ("lbrack;", '['),
    ("rsqb;", ']'),
    ("rbrack;", ']'),
    ("lcub;", '{'),
    ("lbrace;", '{'),
    ("rcub;", '}'),
    ("rbrace;", '}'),
    ("lpar;", '('),
    ("rpar;", ')'),
    ("vert;", '|'),
    ("verbar;", '|'),
    ("num;", '#'),
    ("ast;", '*'),
    ("grave;", '`'),
    ("equals;", '='),
    ("colon;", ':'),
    ("shy;", '\u{ad}'),
    ("nbsp;", '\u{a0}'),
    ("newline;", '\n'),
];

/// A character as a reader sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// One of all characters that look like it.
    pub c: char,
    /// The byte of the text where it is written.
    pub at: usize,
    /// It is written as a letter, and not as a digit or a sign.
    pub letter: bool,
    /// White space stands before it.
    pub spaced: bool,
    /// A line break stands before it.
    pub first_of_line: bool,
    /// Slashes stand between it and the bracket before it. They are left out: `</x` and `<x` are tags of one name.
    pub slashed: bool,
}

/// What is seen of a text. `tags` says whether Unicode's tag characters are read as the letters that they stand for; readers
/// that do not read them see nothing. It takes time linear in the text.
pub(super) fn visible(text: &str, tags: bool) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::with_capacity(text.len());
    let (mut spaced, mut first_of_line, mut slashed) = (false, true, false);
    // Kept for each character, since Unicode's tables take long.
    let mut looks: HashMap<char, Vec<char>> = HashMap::new();
    let mut at = 0;
    while at < text.len() {
        let (c, length) = unescaped(&text[at..]);
        let c = if tags { untagged(c) } else { c };
        first_of_line |= is_line_end(c);
        spaced |= c.is_whitespace() || is_line_end(c);
        let letter = c.is_alphabetic();
        for &c in looks.entry(c).or_insert_with(|| look(c)).iter() {
            if c == '/' && seen.last().is_some_and(|before| is_bracket(before.c)) {
                slashed = true;
            } else {
                seen.push(Seen { c, at, letter, spaced, first_of_line, slashed });
                (spaced, first_of_line, slashed) = (false, false, false);
            }
        }
        at += length;
    }
    without_emphasis(&seen)
}

/// Without the signs that print words in italics or bold: one or two asterisks in a row.
fn without_emphasis(all: &[Seen]) -> Vec<Seen> {
    let mut seen = Vec::with_capacity(all.len());
    let (mut spaced, mut first_of_line) = (false, false);
    for run in all.chunk_by(|a, b| a.c == '*' && b.c == '*' && !b.spaced) {
        let first = run[0];
        (spaced, first_of_line) = (spaced | first.spaced, first_of_line | first.first_of_line);
        if first.c != '*' || run.len() > 2 {
            seen.push(Seen { spaced, first_of_line, ..first });
            seen.extend(&run[1..]);
            (spaced, first_of_line) = (false, false);
        }
    }
    seen
}

/// Whether a sign is one that labels are put in, and not one of ordinary sentences, lists and sums.
pub(super) fn is_bracket(c: char) -> bool {
    "<[{(|".contains(c)
}

/// Whether a text has characters of which `visible` knows two readings.
pub(super) fn has_tags(text: &str) -> bool {
    text.contains(|c| untagged(c) != c)
}

fn untagged(c: char) -> char {
    match c as u32 {
        code @ 0xe0020..=0xe007e => char::from_u32(code - 0xe0000).unwrap_or(c),
        _ => c,
    }
}

/// The first character of a text, which is not empty, and the bytes that it takes: an escape of HTML, JSON or a URL is the
/// character that it means, also when it is escaped more than once (`&amp;lt;`).
fn unescaped(text: &str) -> (char, usize) {
    let mut c = text.chars().next().unwrap_or_default();
    let mut length = c.len_utf8();
    loop {
        let rest = &text[length..];
        let found = match c {
            '&' => entity(rest),
            '\\' => backslash(rest),
            '%' => percent(rest),
            _ => None,
        };
        let Some((meant, used)) = found else { return (c, length) };
        (c, length) = (meant, length + used);
    }
}

/// `lt;`, `#60;` and `#x3c;`.
fn entity(rest: &str) -> Option<(char, usize)> {
    let Some(number) = rest.strip_prefix('#') else {
        let is_name = |name: &str| rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        return ENTITIES.iter().find(|(name, _)| is_name(name)).map(|(name, c)| (*c, name.len()));
    };
    let hex = number.strip_prefix(['x', 'X']);
    let digits = hex.unwrap_or(number);
    let radix = if hex.is_some() { 16 } else { 10 };
    let length = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let semicolon = usize::from(digits[length..].starts_with(';'));
    let code = u32::from_str_radix(&digits[..length], radix).ok()?;
    Some((char::from_u32(code)?, rest.len() - digits.len() + length + semicolon))
}

/// `u003c`, `u{3c}`, `U0000003c` and `x3c`; above U+FFFF, `u` comes twice.
fn backslash(rest: &str) -> Option<(char, usize)> {
    let hex = |from: usize, digits: usize| hex_number(rest.get(from..from + digits)?);
    let (code, length) = match rest.as_bytes().first()? {
        b'x' => (hex(1, 2)?, 3),
        b'U' => (hex(1, 8)?, 9),
        b'u' if rest[1..].starts_with('{') => {
            let digits = rest.as_bytes()[2..].iter().take(8).position(|b| *b == b'}')?;
            (hex(2, digits)?, digits + 3)
        }
        b'u' => match hex(1, 4)? {
            high @ 0xd800..0xdc00 if rest[5..].starts_with("\\u") => {
                let low = hex(7, 4).filter(|low| (0xdc00..0xe000).contains(low))?;
                (0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), 11)
            }
            code => (code, 5),
        },
        _ => return None,
    };
    Some((char::from_u32(code)?, length))
}

/// `3c`, and the further bytes of a character outside ASCII, each after a `%`.
fn percent(rest: &str) -> Option<(char, usize)> {
    let byte = |index: usize| u8::try_from(hex_number(rest.get(3 * index..3 * index + 2)?)?).ok();
    let count = byte(0)?.leading_ones().max(1) as usize;
    let follow = |index: usize| rest.as_bytes().get(3 * index - 1) == Some(&b'%');
    let bytes: Vec<u8> = (0..count).map_while(|index| byte(index).filter(|_| index == 0 || follow(index))).collect();
    Some((std::str::from_utf8(&bytes).ok()?.chars().next()?, 3 * bytes.len() - 1))
}

fn hex_number(digits: &str) -> Option<u32> {
    if digits.bytes().all(|b| b.is_ascii_hexdigit()) { u32::from_str_radix(digits, 16).ok() } else { None }
}

/// A character as all that look like it, in lower case; nothing for what is not seen.
fn look(c: char) -> Vec<char> {
    let listed = |c: char| alike().get(&c).copied().unwrap_or(c);
    let from = |first: u32| char::from(b'a' + ((c as u32 - first) % 26) as u8);
    let c = match c as u32 {
        // Letters in brackets, circles and squares, and the halves of flags.
        0x249c..=0x24b5 => from(0x249c),
        0x1f110..=0x1f129 => from(0x1f110),
        0x1f150..=0x1f169 => from(0x1f150),
        0x1f170..=0x1f189 => from(0x1f170),
        0x1f1e6..=0x1f1ff => from(0x1f1e6),
        _ => listed(c),
    };
    let lower = std::iter::once(c).nfkc().flat_map(char::to_lowercase).map(listed);
    let alike = lower.flat_map(|c| match c.is_ascii_punctuation() {
        true => vec![c],
        // The table writes a quotation mark as two apostrophes.
        false => skeleton(c.encode_utf8(&mut [0; 4])).collect::<String>().replace("''", "\"").chars().collect(),
    });
    alike.flat_map(char::to_lowercase).map(listed).filter(|c| !is_invisible(*c)).take(LOOK_MAX).collect()
}

/// The ASCII character of each one in [`LETTERS`] and [`SIGNS`].
fn alike() -> &'static HashMap<char, char> {
    static ALIKE: LazyLock<HashMap<char, char>> = LazyLock::new(|| {
        let letters = ('a'..='z').zip(LETTERS);
        letters.chain(SIGNS).flat_map(|(ascii, all)| all.chars().map(move |c| (c, ascii))).collect()
    });
    &ALIKE
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// White space, format characters, combining marks and fillers: what may stand between letters and is not seen as one.
fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || is_combining_mark(c)
        || matches!(c as u32,
            0xad | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x202a..=0x202e
            | 0x2060..=0x206f | 0x2800 | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff9..=0xfffb | 0x1d173..=0x1d17a
            | 0xe0000..=0xe0fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, tags: bool) -> String {
        visible(text, tags).iter().map(|seen| seen.c).collect()
    }

    #[test]
    fn letters_are_seen_through_their_look_alikes() {
        for text in [
            "response",
            "RESPONSE",
            "ｒｅｓｐｏｎｓｅ",
            "ʀᴇsᴘᴏɴsᴇ",
            "ʀᴇꜱᴘᴏɴꜱᴇ",
            "ⓡⓔⓢⓟⓞⓝⓢⓔ",
            "⒭⒠⒮⒫⒪⒩⒮⒠",
            "ⓇⒺⓈⓅⓄⓃⓈⒺ",
            "🄡🄔🄢🄟🄞🄝🄢🄔",
            "🅁🄴🅂🄿🄾🄽🅂🄴",
            "🅡🅔🅢🅟🅞🅝🅢🅔",
            "🆁🅴🆂🅿🅾🅽🆂🅴",
            "🇷🇪🇸🇵🇴🇳🇸🇪",
            "𝐫𝐞𝐬𝐩𝐨𝐧𝐬𝐞",
            "𝓻𝓮𝓼𝓹𝓸𝓷𝓼𝓮",
            "𝕣𝕖𝕤𝕡𝕠𝕟𝕤𝕖",
            "𝚛𝚎𝚜𝚙𝚘𝚗𝚜𝚎",
            "ʳᵉˢᵖᵒⁿˢᵉ",
            "rеspоnsе",
            "ɍɇʂƥøɲȿɇ",
            "ŕéśṕőńšê",
            "r\u{301}e\u{20dd}s\u{336}p\u{489}o\u{34f}n\u{5b0}se",
            "r\u{200d}e\u{200c}s\u{ad}p\u{202e}o\u{2066}n\u{fe0f}s\u{2063}e",
            "res\u{e0061}po\u{e0020}nse",
            "r e\ts\u{3000}p\u{2800}o\u{3164}n\ns\u{a0}e",
            "r&#101;spons&#x0065;",
            "r\\u0065sp\\x6fns\\u{65}",
            "r%65sp%6Fns%EF%BD%85",
            "\\ud835\\udc2besponse",
            "r&amp;#101;sponse",
            "r%2565sponse",
        ] {
            assert_eq!(read(text, false), "response", "{text}");
        }
        let tags: String = "response".chars().filter_map(|c| char::from_u32(0xe0000 + c as u32)).collect();
        assert_eq!((read(&tags, false), read(&tags, true)), (String::new(), "response".into()));
        assert!(has_tags(&tags) && !has_tags("response"));
    }

    #[test]
    fn signs_are_seen_through_their_look_alikes() {
        for (texts, sign) in [
            ("<＜‹⟨〈《«&lt;&LT&amp;lt;&#60;&#060;&#x3c;\\u003c\\x3C%3c%253C%EF%BC%9C%26lt;", '<'),
            (">＞›⟩〉》»&gt;&#62;\\u003e%3E", '>'),
            ("[［【〔〖&lsqb;&#91;\\u005b%5B", '['),
            ("]］】〕〗&rsqb;&rbrack;%5d", ']'),
            ("-‐−–—―─ー﹣－", '-'),
            ("=＝═", '='),
            ("#＃﹟♯&num;", '#'),
            ("|｜│¦&vert;", '|'),
            ("\"“”＂&quot;", '"'),
            ("`'’｀&grave;", '\''),
            (":：∶", ':'),
            ("*＊∗&ast;", '*'),
        ] {
            let seen = read(texts, false);
            assert!(!seen.is_empty() && seen.chars().all(|c| c == sign), "{texts}: {seen}");
        }
    }

    #[test]
    fn slashes_after_a_bracket_and_emphasis_are_left_out() {
        for text in ["</a", "<//a", "<\\/a", "< / a", "<&sol;a", "<\\u002fa", "<∕a", "<%2Fa", "<\n/a"] {
            assert_eq!(read(text, false), "<a", "{text}");
        }
        for text in ["**a**:", "*a* :", "a＊＊:"] {
            assert_eq!(read(text, false), "a:", "{text}");
        }
        assert_eq!(read("*** a", false), "***a");
        assert_eq!(read("a/b\\c //", false), "a/b/c//");
    }

    #[test]
    fn what_is_no_escape_is_what_it_is() {
        for text in [
            "&",
            "&b",
            "&#;",
            "&#x;",
            "&#xffffffffff;",
            "%",
            "%4",
            "%zz",
            "%ff",
            "\\u00",
            "\\u{}",
            "\\ud800",
            "&#55296;",
            "é%",
            "%é",
            "\\ué",
            "%c3%",
        ] {
            assert_eq!(read(text, false), text.replace('\\', "/").replace('é', "e").replace('0', "o"), "{text}");
        }
    }
}
