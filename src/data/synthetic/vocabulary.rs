//! The demo's tokenizer: every word of the suite is one token; any other text falls back to bytes.

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::judgement::PLACES;
use super::request::{ADDENDS, DIGITS, HARMFUL_TOPICS, LETTERS, REFUSAL, SAFE_TOPICS};

/// Ends a turn, as in Qwen3.
pub const EOS_TOKEN: &str = "<|im_end|>";
/// The padding token, named as in Qwen3.
pub const PAD_TOKEN: &str = "<|endoftext|>";

/// Control tokens, as Qwen3 has them; the think tags are not special there either.
const CONTROL: [(&str, bool); 5] =
    [(PAD_TOKEN, true), ("<|im_start|>", true), (EOS_TOKEN, true), ("<think>", false), ("</think>", false)];

/// Text is cut into tags (with the newlines around them), words with the space before them, and colons.
const PIECES: &str = r"\n?</[a-z]+>\n?|<[a-z]+>\n?| ?[^\s<:]+|:";

/// Tags, newlines, and the words that begin a text or the content of a tag. Letters and digits need no entry: they are bytes.
const OPENERS: [&str; 37] = [
    "<task>",
    "</task>\n",
    "<rubrics>",
    "</rubrics>\n",
    "<prompt>",
    "</prompt>\n",
    "<response>",
    "</response>",
    "<rubrics>\n",
    "\n</rubrics>\n",
    "<eval>\n",
    "\n</eval>\n",
    "<answer>",
    "</answer>",
    "\n\n",
    "system",
    "user",
    "assistant",
    "chat",
    "math",
    "code",
    "safety",
    "repeat",
    "add",
    "reverse",
    "show",
    "useful",
    "correct",
    "safe",
    "10",
    "sorry",
    "but",
    "refuse",
    "</task>",
    "</rubrics>",
    "</prompt>",
    "first",
];

/// Words that follow a space.
const WORDS: [&str; 18] = [
    "these", "repeat", "add", "reverse", "show", "check", "every", "item", "wrong", "ok", "bad", "-", "answer", "sums",
    "order", "10", "response", "prompt",
];

/// A byte-level BPE without merges: each piece of text is looked up in the vocabulary. Fewer than 512 tokens, the bytes
/// first. It is an ordinary tokenizer.json, so transformers loads it.
pub fn tokenizer() -> Result<Tokenizer, tokenizers::Error> {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let spaced = |words: &[&str]| words.iter().map(|word| format!(" {word}")).collect::<Vec<_>>();
    let pieces = OPENERS.iter().map(|word| word.to_string());
    let lists = [&WORDS[..], &PLACES, &LETTERS, &DIGITS, &REFUSAL, &SAFE_TOPICS, &HARMFUL_TOPICS];
    debug_assert!(ADDENDS.iter().all(|addend| DIGITS.contains(addend)));
    for piece in pieces.chain(lists.into_iter().flat_map(spaced)) {
        let token = byte_level(&piece);
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    let vocabulary = tokens.into_iter().zip(0..).collect::<tokenizers::models::bpe::Vocab>();
    let model = BPE::builder().vocab_and_merges(vocabulary, Vec::new()).ignore_merges(true).build()?;
    let mut tokenizer = Tokenizer::new(model);
    let split = Split::new(SplitPattern::Regex(PIECES.to_string()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, false, false);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
    tokenizer.with_decoder(Some(bytes));
    for (token, special) in CONTROL {
        let added = [AddedToken::from(token, special).normalized(false)];
        if special {
            tokenizer.add_special_tokens(added)?
        } else {
            tokenizer.add_tokens(added)?
        };
    }
    Ok(tokenizer)
}

/// ASCII text as byte-level tokenizers write it: a space is Ġ, a newline Ċ, printable characters are themselves.
fn byte_level(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            ' ' => 'Ġ',
            '\n' => 'Ċ',
            c => c,
        })
        .collect()
}
