"""Chat templates rendered by transformers: python tools/golden_templates.py TRL_TEMPLATES [--out tests/goldens/chat_templates]

TRL_TEMPLATES is the folder trl/chat_templates of the package `trl`. Every template there is copied to OUT/templates and
rendered with every conversation of CASES by transformers itself (render_jinja_template, which apply_chat_template calls);
so are the small templates of OUT/snippets.jinja, one for each thing that Jinja and Python do. Left out is what no chat
template was seen to use and is refused by name: the filters random, wordwrap, filesizeformat, xmlattr, urlize and pprint,
varargs and kwargs of macros, values of macro and with that use names of the same tag, \\N{…} in texts, autoescape, texts of
functions, generators and namespaces, integers of more than 127 bits, and break and continue in a scope inside of their loop.
A call of strftime_now is replaced by its format. The committed files are what tests/text/templates.rs reads; no test needs
Python. Packages: transformers, jinja2, trl.

Files:
    cases.json       {"tokens": special tokens, "cases": [{"name", "messages", "kwargs"}, …]}
    renderings.json  {template: {case: text, or null where transformers refuses it}}; of most templates the text's FNV-1a
                     hash is kept instead (--full FOLDER writes all texts there)
    continued.json   the same as cases.json and renderings.json, with continue_final_message
    snippets.json    [{"template", "text" or null}, …], rendered with the variables of "variables"
    templates/       the templates, and a README.md with their origin and licence
"""

import argparse
import json
import pathlib
import shutil

import transformers
from transformers.utils.chat_template_utils import _normalize_chat_messages, render_jinja_template

TOKENS = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|unk|>"}
DATE = "26 Jul 2024"
# Templates whose texts are kept, to be read by people.
WHOLE = ("qwen3.jinja",)


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(name, arguments, id="call12345"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(text, name="weather", id="call12345"):
    return {"role": "tool", "name": name, "tool_call_id": id, "content": text}


SYSTEM = {"role": "system", "content": "You are terse. \n"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's weather in a city, e.g. \"<Paris>\" & é.",
        "parameters": {
            "type": "object",
            "properties": {
                "zone": {"type": "string", "description": "a city", "enum": ["Paris", "Rome"]},
                "days": {"type": "integer", "default": 1},
                "exact": {"type": "boolean"},
                "at": {"type": "array", "items": {"type": "number"}, "description": "hours"},
            },
            "required": ["zone"],
        },
    },
}
NOTHING = {"type": "object", "properties": {}}
STOP = {"type": "function", "function": {"name": "stop", "description": "Stops.", "parameters": NOTHING}}
TOOLS = [WEATHER, STOP]
ARGUMENTS = {"zone": "Rome", "days": 2, "exact": True, "at": [6, 12.5], "note": None}

CONVERSATIONS = {
    "one": [user("Hi there!")],
    "system": [SYSTEM, user(" Q <b>&'\"é ")],
    "turns": [SYSTEM, user("1+1?"), assistant("2"), user("2+2?"), assistant("4 \n"), user("Thanks\n")],
    "answered": [user("1+1?"), assistant("\n2")],
    "spaces": [user("\n\n  a\t "), assistant("   "), user("b")],
    "think": [user("Q"), assistant("<think>\nwhy\n</think>\n\nA"), user("R"), assistant("<think>\nhow\n</think>\n\nB")],
    "reasoning": [user("Q"), assistant("A", reasoning_content="why"), user("R"), assistant("B", reasoning_content="how\nso")],
    "reasoning_vllm": [user("Q"), assistant("A", reasoning="why")],
    "call": [user("Weather?"), assistant("", tool_calls=[call("weather", ARGUMENTS)])],
    "call_null": [user("Weather?"), assistant(None, tool_calls=[call("weather", ARGUMENTS)])],
    "call_result": [
        SYSTEM,
        user("Weather?"),
        assistant("Let me see.", tool_calls=[call("weather", {"zone": "Rome"})]),
        result("sunny <25>"),
        assistant("It is sunny."),
        user("And Paris?"),
    ],
    "calls_results": [
        user("Weather?"),
        assistant(
            "",
            reasoning_content="two",
            tool_calls=[call("weather", {"zone": "Rome"}, "aaaaaaaa1"), call("weather", {"zone": "Paris"}, "aaaaaaaa2")],
        ),
        result('{"sky": "sunny"}', id="aaaaaaaa1"),
        result("rain", id="aaaaaaaa2"),
    ],
    "call_text": [user("Weather?"), assistant("", tool_calls=[call("weather", '{"zone":"Rome", "days":2}')]), result("ok")],
    "two_answers": [user("Q"), assistant("A"), assistant("B")],
    "two_users": [user("Q"), user("R"), assistant("A")],
    "assistant_first": [assistant("A"), user("Q")],
    "odd_role": [user("Q"), {"role": "oracle", "content": "x"}],
}
# Conversations whose last turn is to be continued.
CONTINUED = [
    ("plain", [SYSTEM, user("Q"), assistant("The answer")], {}),
    ("thinking", [user("Q"), assistant("The answer")], {"enable_thinking": True}),
    ("not_thinking", [user("Q"), assistant("The answer")], {"enable_thinking": False}),
    ("spaces", [user("1+1?"), assistant("2"), user("2+2?"), assistant("\n It is \n")], {}),
    ("empty", [user("Q"), assistant("")], {}),
    ("in_thought", [user("Q"), assistant("<think>\nFirst, ")], {}),
    ("thought", [user("Q"), assistant("<think>\nwhy\n</think>\n\nSo")], {}),
    ("reasoning", [user("Q"), assistant("A", reasoning_content="why")], {}),
    ("call", [user("Q"), assistant("Let me", tool_calls=[call("weather", ARGUMENTS)])], {}),
    ("user", [user("Why is the")], {}),
    ("tag", [user("CONTINUE_FINAL_MESSAGE_TAG "), assistant("A CONTINUE_FINAL_MESSAGE_TAG b")], {}),
]
OPTIONS = {
    "": {},
    "+gen": {"add_generation_prompt": True},
    "+gen+think": {"add_generation_prompt": True, "enable_thinking": True},
    "+gen-think": {"add_generation_prompt": True, "enable_thinking": False},
    "+tools": {"tools": TOOLS},
    "+tools+gen": {"tools": TOOLS, "add_generation_prompt": True},
    "+documents": {"documents": [{"title": "T", "text": "Some text."}], "add_generation_prompt": True},
    "+kwargs": {
        "date_string": "1 May 2025",
        "reasoning_effort": "high",
        "thinking": True,
        "preserve_thinking": True,
        "custom": [1, {"a": None}],
    },
}

VARIABLES = {
    "s": "Hello, World! it's \"é\"\n", "empty": "", "n": 7, "neg": -7, "f": 2.5, "tiny": 0.00001, "huge": 1e22, "one": 1.0,
    "t": True,
    "no": False, "none": None, "words": ["b", "A", "c", "a"], "nums": [3, 1, 2, 2],
    "d": {"z": 1, "a": "x", "m": [1, 2.0, None, True]},
    "rows": [{"k": "x", "v": 1}, {"k": "y", "v": 2}, {"k": "x", "v": 3}, {"v": 4}], "nested": {"a": {"b": [{"c": "deep"}]}},
    "items": {"items": 5, "get": 6}, "uni": "ß\u200b日本\U0001f600\x7f\x01", "spaced": "  a  b\tc \n",
}


def render(template, messages, **kwargs):
    messages = _normalize_chat_messages(messages)
    texts, _ = render_jinja_template([messages], chat_template=template, **{**TOKENS, **kwargs})
    return texts[0]


def attempt(template, messages, **kwargs):
    try:
        return render(template, messages, **kwargs)
    except Exception as error:  # whatever a template does wrong is a refusal
        print(f"  refused: {type(error).__name__}: {str(error)[:90]}")
        return None


def split_snippets(text):
    """One template a line; lines that lead to the next (a tag of generation alone) go together with it."""
    lines, found = text.strip("\n").split("\n"), []
    while lines:
        line = lines.pop(0)
        if line == "{% generation %}":
            line = "\n".join([line] + [lines.pop(0) for _ in range(3)])
        found.append(line)
    return found


def fnv(text):
    """64-bit FNV-1a, in hexadecimal."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def hashed(renderings):
    """The renderings with hashes for texts, but for the templates of WHOLE."""
    short = lambda name, text: text if text is None or name in WHOLE else fnv(text)
    return {name: {case: short(name, text) for case, text in texts.items()} for name, texts in renderings.items()}


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("templates", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/goldens/chat_templates"))
    parser.add_argument("--full", type=pathlib.Path)
    args = parser.parse_args()
    (args.out / "templates").mkdir(parents=True, exist_ok=True)
    cases = [
        {"name": name + mark, "messages": messages, "kwargs": kwargs}
        for name, messages in CONVERSATIONS.items()
        for mark, kwargs in OPTIONS.items()
        if name not in ("spaces", "two_users", "assistant_first", "odd_role") or mark in ("", "+gen")
    ]
    renderings = {}
    for path in sorted(args.templates.glob("*.jinja")):
        shutil.copy(path, args.out / "templates" / path.name)
        template = path.read_text(encoding="utf-8").replace("strftime_now(", "(")
        print(path.name)
        renderings[path.name] = {
            case["name"]: attempt(template, case["messages"], **{"date_string": DATE, **case["kwargs"]}) for case in cases
        }
    head = {"transformers": transformers.__version__, "tokens": TOKENS, "date_string": DATE}
    write(args.out / "cases.json", {**head, "cases": cases})
    write(args.out / "renderings.json", hashed(renderings))
    if args.full:
        write(args.full / "renderings.json", renderings)
    unended = [{"name": n, "messages": m, "kwargs": {**k, "continue_final_message": True}} for n, m, k in CONTINUED]
    continued = {}
    for path in sorted(args.templates.glob("*.jinja")):
        template = path.read_text(encoding="utf-8").replace("strftime_now(", "(")
        continued[path.name] = {
            case["name"]: attempt(template, case["messages"], **{"date_string": DATE, **case["kwargs"]}) for case in unended
        }
    write(args.out / "continued.json", {"cases": unended, "renderings": hashed(continued)})
    chat = [user("Hi there"), assistant("A")]
    source = (args.out / "snippets.jinja").read_text(encoding="utf-8")
    snippets = [{"template": t, "text": attempt(t, chat, **VARIABLES)} for t in split_snippets(source)]
    write(args.out / "snippets.json", {"variables": VARIABLES, "snippets": snippets})
    count = sum(text is not None for texts in renderings.values() for text in texts.values())
    print(f"{len(renderings)} templates x {len(cases)} cases, {count} renderings; {len(snippets)} snippets")


if __name__ == "__main__":
    main()
