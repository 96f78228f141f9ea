//! Module scope: version, target, files, variables, kernels.

use super::lexer::Token;
use super::tokens::{Parsed, Tokens};
use super::{Entry, Function, Module, SyntaxError, Target, Variable};

/// # Errors
/// The first construct that this grammar does not support, with its line.
pub fn parse(text: &str) -> Parsed<Module<'_>> {
    let mut parser = Parser { tokens: Tokens::of(text)?, module: Module::default() };
    parser.header()?;
    while parser.tokens.peek().is_some() {
        parser.item()?;
    }
    Ok(parser.module)
}

/// Reads only the `.target` of a text.
///
/// # Errors
/// The text does not start like PTX.
pub fn target_of(text: &str) -> Parsed<Target> {
    let mut parser = Parser { tokens: Tokens::of(text)?, module: Module::default() };
    parser.header()?;
    Ok(parser.module.target)
}

pub struct Parser<'a> {
    pub tokens: Tokens<'a>,
    pub module: Module<'a>,
}

impl<'a> Parser<'a> {
    /// `.version`, `.target` and `.address_size` come first, in this order.
    fn header(&mut self) -> Parsed<()> {
        if !self.tokens.accept_word(".version") {
            return self.tokens.expected("`.version` at the start of the PTX text");
        }
        self.module.version = self.version()?;
        if !self.tokens.accept_word(".target") {
            return self.tokens.expected("`.target`");
        }
        let line = self.tokens.line();
        let name = self.tokens.word("an architecture such as sm_80")?;
        self.module.target = target(name).ok_or_else(|| SyntaxError {
            line,
            message: format!("`{name}` is not an architecture such as sm_80 or sm_90a"),
        })?;
        while self.tokens.accept(b',') {
            self.tokens.word("an option of the target")?;
        }
        if self.tokens.accept_word(".address_size") && self.tokens.count(".address_size")? != 64 {
            return self.tokens.error("only 64-bit addresses are supported: `.address_size 64`");
        }
        Ok(())
    }

    fn version(&mut self) -> Parsed<(u32, u32)> {
        if let Some(Token::Number(text)) = self.tokens.peek()
            && let Some((major, minor)) = text.split_once('.')
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            self.tokens.next();
            return Ok((major, minor));
        }
        self.tokens.expected("a version such as 9.0")
    }

    fn item(&mut self) -> Parsed<()> {
        match self.tokens.peek() {
            Some(Token::Word(".file")) => self.file(),
            Some(Token::Word(".section")) => self.section(),
            Some(Token::Word(".loc")) => self.location().map(|_| ()),
            Some(Token::Word(".pragma")) => self.pragma(),
            Some(Token::Sign(b';')) => self.tokens.expect(b';'),
            _ => self.declaration(),
        }
    }

    /// `.file number "path"[, timestamp, size]`.
    fn file(&mut self) -> Parsed<()> {
        self.tokens.next();
        let number = self.tokens.count32("the number of a file")?;
        let Some(Token::Text(path)) = self.tokens.peek() else { return self.tokens.expected("the path of a file") };
        self.tokens.next();
        while self.tokens.accept(b',') {
            self.tokens.count("a timestamp or size")?;
        }
        self.module.files.push((number, path));
        Ok(())
    }

    /// Debug information in DWARF; reports do not need it.
    fn section(&mut self) -> Parsed<()> {
        self.tokens.next();
        self.tokens.word("the name of a section")?;
        self.tokens.expect(b'{')?;
        self.tokens.skip_braces()
    }

    /// `.pragma "text", …;`: hints to the compiler.
    pub fn pragma(&mut self) -> Parsed<()> {
        self.tokens.next();
        loop {
            match self.tokens.next() {
                Some(Token::Text(_)) if self.tokens.accept(b',') => {}
                Some(Token::Text(_)) => return self.tokens.expect(b';'),
                _ => return self.tokens.expected("a pragma in quotes"),
            }
        }
    }

    /// What may follow the linkage directives: a variable, a kernel, a function.
    fn declaration(&mut self) -> Parsed<()> {
        let mut external = false;
        while let Some(Token::Word(word @ (".visible" | ".extern" | ".weak" | ".common"))) = self.tokens.peek() {
            external |= word == ".extern";
            self.tokens.next();
        }
        match self.tokens.peek() {
            Some(Token::Word(".entry")) => self.entry(),
            Some(Token::Word(".func")) => self.function(),
            Some(Token::Word(".alias")) => self.tokens.error("`.alias` is not supported: calls are not"),
            Some(Token::Word(word)) if super::declarations::space(word).is_some() => {
                let variables = self.variables(external)?;
                self.module.variables.extend(variables);
                Ok(())
            }
            _ => self.tokens.expected("a directive of module scope"),
        }
    }

    /// `.entry name (parameters) directives { body }`.
    fn entry(&mut self) -> Parsed<()> {
        let line = self.tokens.line();
        self.tokens.next();
        let name = self.tokens.word("the name of a kernel")?;
        let mut entry = Entry {
            name,
            parameters: self.parameters()?,
            max_threads: None,
            required_threads: None,
            body: vec![],
            line,
        };
        loop {
            match self.tokens.peek() {
                Some(Token::Sign(b'{')) => break,
                // A kernel declaration without a body.
                Some(Token::Sign(b';')) => return self.tokens.expect(b';'),
                Some(Token::Word(".maxntid")) => entry.max_threads = Some(self.sizes()?),
                Some(Token::Word(".reqntid")) => entry.required_threads = Some(self.sizes()?),
                Some(Token::Word(".minnctapersm" | ".maxnctapersm" | ".maxnreg")) => {
                    self.sizes()?;
                }
                Some(Token::Word(".pragma")) => self.pragma()?,
                Some(Token::Word(word)) if word.contains("cluster") => {
                    return self
                        .tokens
                        .error(format!("kernel {name}: `{word}`: thread block clusters are not supported"));
                }
                _ => return self.tokens.expected("a directive of a kernel or its body"),
            }
        }
        entry.body = self.body()?;
        self.module.entries.push(entry);
        Ok(())
    }

    /// `.maxntid 256, 1, 1`: one to three numbers; missing ones are 1.
    fn sizes(&mut self) -> Parsed<[u32; 3]> {
        self.tokens.next();
        let mut sizes = [1; 3];
        for size in &mut sizes {
            *size = self.tokens.count32("a number of threads or blocks")?;
            if !self.tokens.accept(b',') {
                break;
            }
        }
        Ok(sizes)
    }

    /// `.func (result) name (parameters) directives;` or with a body.
    fn function(&mut self) -> Parsed<()> {
        self.tokens.next();
        let results = self.parameters()?;
        let name = self.tokens.word("the name of a function")?;
        let parameters = self.parameters()?;
        let body = loop {
            match self.tokens.peek() {
                Some(Token::Sign(b';')) => {
                    self.tokens.next();
                    break None;
                }
                Some(Token::Sign(b'{')) => break Some(self.body()?),
                Some(Token::Word(".pragma")) => self.pragma()?,
                Some(Token::Word(_) | Token::Number(_)) => {
                    self.tokens.next();
                }
                _ => return self.tokens.expected("`;` or the body of the function"),
            }
        };
        self.module.functions.push(Function { name, results, parameters, body });
        Ok(())
    }

    /// `(.param …, …)`; absent for a kernel without parameters.
    fn parameters(&mut self) -> Parsed<Vec<Variable<'a>>> {
        let mut parameters = Vec::new();
        if !self.tokens.accept(b'(') || self.tokens.accept(b')') {
            return Ok(parameters);
        }
        loop {
            parameters.push(self.parameter()?);
            if !self.tokens.accept(b',') {
                self.tokens.expect(b')')?;
                return Ok(parameters);
            }
        }
    }
}

/// `sm_80`, `sm_90a`, `sm_100f`, `sm_120`: the last digit is the minor number.
fn target(name: &str) -> Option<Target> {
    let digits = name.strip_prefix("sm_")?;
    let accelerated = digits.ends_with('a');
    let number: u32 = digits.strip_suffix(['a', 'f']).unwrap_or(digits).parse().ok()?;
    Some(Target { major: number / 10, minor: number % 10, accelerated })
}
