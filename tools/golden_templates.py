"""Chat templates rendered by transformers: python tools/golden_templates.py TRL_TEMPLATES [--out tests/goldens/chat_templates]

TRL_TEMPLATES is the folder trl/chat_templates of the package `trl`. Every template there is copied to OUT/templates and
rendered with every conversation of CASES by transformers itself (render_jinja_template, which apply_chat_template calls);
so are the small templates of SNIPPETS, one for each thing that Jinja and Python do. Left out is what no chat template was
seen to use and minijinja lacks: the filters random, wordwrap, urlencode and filesizeformat, unary plus, varargs of macros,
loop.last over the characters of a text, dict() of pairs, `!r` in str.format. All but loop.last are refused by name. Where
Python refuses `1 in 'a1'` and a loop over None, minijinja does not. A call of strftime_now is replaced by its format. The committed files are what
tests/text/templates.rs reads; no test needs Python. Packages: transformers, jinja2, trl.

Files:
    cases.json       {"tokens": special tokens, "cases": [{"name", "messages", "kwargs"}, …]}
    renderings.json  {template: {case: text, or null where transformers refuses it}}; of most templates the text's FNV-1a
                     hash is kept instead (--full FOLDER writes all texts there)
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
STOP = {"type": "function", "function": {"name": "stop", "description": "Stops.", "parameters": {"type": "object", "properties": {}}}}
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
        assistant("", reasoning_content="two", tool_calls=[call("weather", {"zone": "Rome"}, "aaaaaaaa1"), call("weather", {"zone": "Paris"}, "aaaaaaaa2")]),
        result('{"sky": "sunny"}', id="aaaaaaaa1"),
        result("rain", id="aaaaaaaa2"),
    ],
    "call_text": [user("Weather?"), assistant("", tool_calls=[call("weather", '{"zone":"Rome", "days":2}')]), result("ok")],
    "two_answers": [user("Q"), assistant("A"), assistant("B")],
    "two_users": [user("Q"), user("R"), assistant("A")],
    "assistant_first": [assistant("A"), user("Q")],
    "odd_role": [user("Q"), {"role": "oracle", "content": "x"}],
}
OPTIONS = {
    "": {},
    "+gen": {"add_generation_prompt": True},
    "+gen+think": {"add_generation_prompt": True, "enable_thinking": True},
    "+gen-think": {"add_generation_prompt": True, "enable_thinking": False},
    "+tools": {"tools": TOOLS},
    "+tools+gen": {"tools": TOOLS, "add_generation_prompt": True},
    "+documents": {"documents": [{"title": "T", "text": "Some text."}], "add_generation_prompt": True},
    "+kwargs": {"date_string": "1 May 2025", "reasoning_effort": "high", "thinking": True, "preserve_thinking": True, "custom": [1, {"a": None}]},
}

VARIABLES = {
    "s": "Hello, World! it's \"é\"\n", "empty": "", "n": 7, "neg": -7, "f": 2.5, "tiny": 0.00001, "huge": 1e22, "one": 1.0, "t": True,
    "no": False, "none": None, "words": ["b", "A", "c", "a"], "nums": [3, 1, 2, 2], "d": {"z": 1, "a": "x", "m": [1, 2.0, None, True]},
    "rows": [{"k": "x", "v": 1}, {"k": "y", "v": 2}, {"k": "x", "v": 3}, {"v": 4}], "nested": {"a": {"b": [{"c": "deep"}]}},
    "items": {"items": 5, "get": 6}, "uni": "ß\u200b日本\U0001f600\x7f\x01", "spaced": "  a  b\tc \n",
}
SNIPPETS = """
{{ t }} {{ no }} {{ none }} {{ n }} {{ f }} {{ tiny }} {{ huge }} {{ one }}
{{ d }}|{{ words }}|{{ (1, 'a') }}|{{ (1,) }}|{{ rows }}
{{ [s] }}|{{ [uni] }}|{{ ["it's"] }}|{{ ['"'] }}|{{ ['\\\\'] }}
{{ d | tojson }}|{{ s | tojson }}|{{ uni | tojson }}|{{ uni | tojson(ensure_ascii=true) }}
{{ d | tojson(indent=2) }}
{{ d | tojson(indent=4, sort_keys=true) }}|{{ [] | tojson(indent=2) }}|{{ {} | tojson(indent=2) }}
{{ d | tojson(separators=(',', ':')) }}|{{ d | tojson(separators=(', ', '=')) }}|{{ d | tojson(false, 1) }}|{{ d | tojson(indent='\\t') }}
{{ [1e5, 1e16, 1e-7, -0.0, 123456789.125, 1/3] | tojson }}
{{ {1: 2, true: 3, none: 4, 'k': 5} | tojson }}
{{ none | tojson }} {{ true | tojson }} {{ 'a/b' | tojson }} {{ nothing | tojson }}
{{ '%s is %d and %.2f' % (s, n, f) }}
{{ '%s' % n }}|{{ '%s' % none }}|{{ '%s' % t }}|{{ '%s' % words }}|{{ '%5d|%-5d|%05d' % (n, n, n) }}|{{ '%x %X %o %e' % (255, 255, 8, 12345.678) }}
{{ '%(a)s-%(z)d' % d }}|{{ '100%%' % () }}|{{ '%r' % 'x' }}|{{ '%c' % 'x' }}
{{ n % 4 }} {{ neg % 4 }} {{ n % -4 }} {{ 7.5 % 2 }} {{ neg % 2.5 }} {{ n * 3 % 4 + 1 }} {{ n - 9 % 4 }}
{{ '%s-%s' % ('a', 'b') | upper }}|{{ ('%s' % 'a') | upper }}
{{ '%s' | format('a') }}|{{ '%s %s' | format(1, none) }}|{{ '{} {}'.format(1, 'a') }}|{{ '{0}{1}{0}'.format('a', 'b') }}|{{ '{x}'.format(x=3) }}|{{ '{:>5}|{:.1f}'.format('a', 2.25) }}
{{ s.upper() }}{{ s.lower() }}{{ s.title() }}{{ s.capitalize() }}{{ s.swapcase() }}
{{ s.split(',') }}|{{ s.split() }}|{{ s.split(' ', 1) }}|{{ s.rsplit(' ', 1) }}|{{ s.rsplit() }}|{{ spaced.split() }}|{{ s.split('l', 2) }}|{{ s.split(maxsplit=1) }}
{{ s.splitlines() }}|{{ 'a\\r\\nb\\n\\nc'.splitlines() }}|{{ s.partition(', ') }}|{{ s.rpartition('o') }}
{{ s.strip() }}|{{ spaced.lstrip() }}|{{ spaced.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcab'.rstrip('ba') }}|{{ 'abcab'.lstrip('ba') }}
{{ s.replace('l', 'L') }}|{{ s.replace('l', 'L', 1) }}|{{ s.find('o') }}|{{ s.rfind('o') }}|{{ s.index('o') }}|{{ s.count('l') }}|{{ s.find('zz') }}
{{ s.startswith('Hello') }} {{ s.startswith(('x', 'H')) }} {{ s.endswith('\\n') }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'ab'.center(6, '*') }} {{ 'ab'.ljust(4) }}| {{ 'ab'.rjust(4) }} {{ '7'.zfill(3) }}
{{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'ABC'.isupper() }} {{ 'abc'.islower() }} {{ 'Abc'.istitle() }}
{{ ', '.join(words) }}|{{ words | join('-') }}|{{ nums | join(', ') }}|{{ [t, none, one] | join(' ') }}|{{ rows | map(attribute='v') | join(',') }}
{{ d.items() | list }}|{{ d.keys() | list }}|{{ d.values() | list }}|{{ d.get('z') }} {{ d.get('q') }} {{ d.get('q', 9) }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}
{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}{% for k, v in d | items %}{{ k }}{% endfor %}
{{ words[0] }} {{ words[-1] }} {{ words[1:] }} {{ words[:2] }} {{ words[::-1] }} {{ words[::2] }} {{ words[-2:] }} {{ words[3:0:-1] }} {{ s[:5] }} {{ s[::-1] }} {{ s[1] }} {{ words[10:] }}
{{ words | sort }}|{{ words | sort(case_sensitive=true) }}|{{ nums | sort(reverse=true) }}|{{ rows | sort(attribute='v', reverse=true) | map(attribute='v') | list }}
{{ nums | unique | list }}|{{ nums | sum }}|{{ nums | max }}|{{ nums | min }}|{{ words | first }}|{{ words | last }}|{{ words | length }}|{{ words | count }}|{{ nums | reverse | list }}
{{ rows | selectattr('k', 'equalto', 'x') | list | length }}|{{ rows | selectattr('k', 'defined') | list | length }}|{{ rows | rejectattr('k', 'equalto', 'x') | map(attribute='v') | list }}|{{ rows | selectattr('k') | list | length }}
{{ nums | select('odd') | list }}|{{ nums | reject('odd') | list }}|{{ words | map('upper') | list }}|{{ rows | map(attribute='k', default='-') | list }}
{% for g in rows | selectattr('k', 'defined') | groupby('k') %}{{ g.grouper }}:{{ g.list | length }};{% endfor %}{{ nums | batch(2) | list }}{{ nums | slice(2) | list }}
{{ nothing }}|{{ nothing | default('x') }}|{{ none | default('x') }}|{{ none | default('x', true) }}|{{ empty | default('x', boolean=true) }}|{{ d.q }}|{{ none.q }}|{{ s.q }}
{{ nothing.x }}
{{ nothing + 'a' }}
{{ 'a' in nothing }}|{{ not nothing }}|{% for x in nothing %}{% endfor %}{{ nothing == nothing }}
{{ nothing is defined }} {{ s is string }} {{ d is mapping }} {{ words is sequence }} {{ d is sequence }} {{ s is sequence }} {{ words is iterable }} {{ s is iterable }} {{ n is iterable }} {{ none is none }} {{ t is true }} {{ t is boolean }} {{ n is number }} {{ f is float }} {{ n is integer }} {{ t is number }} {{ t is integer }}
{{ 4 is even }} {{ 3 is odd }} {{ 6 is divisibleby 3 }} {{ 'a' is in words }} {{ n is not none }} {{ n is sameas 7 }} {{ n is eq 7 }} {{ n is gt 3 }} {{ 'a' is lower }} {{ nothing is undefined }} {{ d is callable }} {{ none is mapping }}
{{ 1 + 2 * 3 }} {{ 7 / 2 }} {{ 8 / 2 }} {{ 7 // 2 }} {{ neg // 2 }} {{ 2 ** 10 }} {{ -2 ** 2 }} {{ 1 - -1 }} {{ 'a' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ (1,) + (2,) }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 ~ words }}|{{ 'a' ~ n + 1 }}
{{ 1 < 2 }} {{ 1 < 2 < 3 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ none == false }} {{ [] == () }} {{ {} == {} }}
{{ 'a' if t else 'b' }}{{ 'x' if no }}|{{ n and s[0] }}|{{ no or 'z' }}|{{ empty or none or 0 }}|{{ not empty }}|{{ 0 and 1 }}|{{ t and not no }}
{{ s | upper }}{{ s | lower }}{{ s | title }}{{ s | capitalize }}{{ spaced | trim }}|{{ 'xax' | trim('x') }}|{{ s | replace('l', 'L') }}|{{ s | replace('l', 'L', 1) }}|{{ s | length }}|{{ s | wordcount }}
{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\nb' | indent(width=3, first=true) }}|{{ 'a\\n\\nb' | indent(2, blank=true) }}|{{ 'a\\nb' | indent('> ') }}
{{ f | round }} {{ f | round(1) }} {{ 2.567 | round(2, 'floor') }} {{ 2.1 | round(method='ceil') }} {{ neg | abs }} {{ '12' | int }} {{ 'x' | int }} {{ '1.5' | float }} {{ 3.9 | int }} {{ n | float }} {{ n | string }} {{ 'ab' | list }} {{ 'x' | int(5) }}
{{ '<b>&"' }}|{{ '<b>&' | safe }}|{{ '<b>&"\\'' | e }}|{{ '<b>' | escape }}
{{ nested.a.b[0].c }} {{ nested['a']['b'][0]['c'] }} {{ nested.a['b'][0].c }} {{ nested | attr('a') }} {{ d['m'][1] }} {{ d.m.0 }}
{{ items['items'] }} {{ items.get('get') }} {{ items['get'] }} {{ items.items is mapping }}
{% set x = 1 %}{% for i in nums %}{% set x = i %}{% endfor %}{{ x }}{% set ns = namespace(x=0, y='a') %}{% for i in nums %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}
{% for i in nums %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.changed(i) }};{% endfor %}
{% for i in nums if i > 1 %}{{ i }}{{ loop.index }}{{ loop.last }}{% else %}none{% endfor %}{% for i in [] %}{% else %}none{% endfor %}
{% for i in nums %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }},{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% macro m(a, b='x', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}{{ m(1, 2, 3) }}{{ m(a='q') }}
{% macro outer(x) %}({{ caller() }}{{ x }}){% endmacro %}{% call outer(1) %}inner{% endcall %}{% macro rec(n) %}{{ n }}{% if n > 0 %}{{ rec(n - 1) }}{% endif %}{% endmacro %}{{ rec(3) }}
{% set block %}a {{ n }} b{% endset %}[{{ block }}]{% set up | upper %}abc{% endset %}{{ up }}{% filter upper %}xyz{% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}{% set q, r = 1, 2 %}{{ q }}{{ r }}
{% generation %}{{ n }}{% set inner = 5 %}{{ inner }}{% endgeneration %}[{{ inner }}]{%- generation -%}  x  {%- endgeneration -%}  y
{% generation %}
a
{% endgeneration %}
b
{% if n > 5 and 'a' in words %}A{% elif n %}B{% else %}C{% endif %}{% if nothing %}D{% endif %}{% if not words %}E{% endif %}{{ 'z' not in words }}
{%- if t -%}   a   {%- endif -%}   b  {{- ' c' -}}   d
{# comment #}a{#- x -#}  b  {% raw %}{{ x }}{% generation %}{% endraw %}
{{ range(3) | list }} {{ range(1, 10, 3) | list }} {{ range(3, 0, -1) | list }} {{ dict(a=1, b=2) }} {{ dict(a=1).items() | list }}
{{ 'a' 'b' }}|{{ "x\\ty\\u00e9\\x41\\n" }}|{{ 'it\\'s' }}|{{ 1_000 }}|{{ 0x1f }}|{{ 1e3 }}|{{ 12345678901234567890123 }}
{{ words | tojson | length }}{{ 'a,b' | list }}{{ [[1, 2], [3]] | sum(start=[]) }}{{ d | length }}{{ d | list }}
{{ s | truncate(8) }}|{{ 'foo bar baz' | truncate(9, true) }}|{{ 'foo bar' | truncate(5, end='~', leeway=0) }}|{{ 'x' | center(5) }}|{{ '<a>b</a>' | striptags }}
{{ nums.index(2) }}|{{ nums.count(2) }}|{{ words.copy() }}|{{ words.append('x') }}
{{ raise_exception('no') }}
{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ cls_token }}
{% for m in messages %}{{ m }}{{ m | tojson }}{{ m.items() | list }}{% endfor %}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}
{{ joiner is defined }} {{ cycler is defined }} {{ namespace is defined }} {{ strftime_now is defined }}
{{ messages[0]['content'][:2] + '...' if messages[0]['content'] | length > 2 else 'x' }}{{ messages[-1].role }}{{ messages[5] }}{{ messages[1:] | length }}
{{ 5 | string + 'a' }}|{{ (5 | string) ~ 'b' }}|{{ '5' + 5 }}
{{ f.is_integer() }}|{{ 'a'.__class__ }}
{{ {'a': 1, 'b': [1, {'c': none}]} }}|{{ {'a': 1}.a }}|{{ {'x': 1}['x'] }}|{{ {}.get('a', {}) }}|{{ {'a': 1, 'a': 2} }}
{% for i in [[1, [2]], [3]] recursive %}{% if i is iterable %}({{ loop(i) }}){% else %}{{ i }}{% endif %}{% endfor %}
{% print n %}{% block a %}x{% endblock %}{% if s is not string %}a{% endif %}{% set a = b = 1 %}
{% macro list(x) %}{% for i in x %}<{{ caller(i) }}>{% endfor %}{% endmacro %}{% call(u) list([1, 2]) %}{{ u * 2 }}{% endcall %}
{{ nothing.a.b is defined }}
{{ d.q is defined }} {{ d.q.r is defined }}
{{ none.x is defined }} {{ (nothing or {}).x is defined }} {{ nothing | default([]) | length }} {{ nothing | length }}
{{ 'a' in none }}
{{ none | length }}
{{ none + 'a' }}
{{ none ~ 'a' }}{{ 1 ~ 2 }}{{ [] ~ '' }}
{{ 'x'.join([1]) }}
{{ 'abc'[5] }}|{{ [1, 2][5] }}|{{ {} | first }}|{{ [] | last }}|{{ {'a': 1} | first }}
{% for x in 5 %}{{ x }}{% endfor %}
{% for c in 'abc' %}{{ c }}{% endfor %}{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}
{{ rows | selectattr('k', 'in', ['x']) | list | length }} {{ rows | rejectattr('k', 'undefined') | list | length }} {{ rows | map(attribute='v') | sum }} {{ rows | sum(attribute='v') }}
{{ words | map('tojson') | join(' ') }} {{ words | map('length') | list }} {{ words | map('replace', 'a', 'z') | list }} {{ rows | map('tojson') | list | length }}
{{ 'a' is string and 1 is number }} {{ 1 is string or 'x' }} {{ not 1 is string }} {{ 1 is not string }} {{ [] is not mapping }} {{ (1, 2) is sequence }} {{ range(2) is iterable }}
{{ 1 if nothing else 2 }} {{ (1 if nothing) is defined }} {{ ('a' if t else 'b') ~ 'c' }} {{ 'a' if t else 'b' ~ 'c' }} {{ [1 if t else 2, 3] }}
{{ -n }} {{ - n + 3 }} {{ n - -n }} {{ not t == no }} {{ 2 * -3 }} {{ -7 // 2 }} {{ -7.5 // 2 }} {{ 7 / 7 }} {{ 10 ** -1 }} {{ 2 ** 0.5 }} {{ 1 / 3 }} {{ 1e400 }}
{{ true + 1 }} {{ true == 1 }} {{ [1, true] }} {{ 1.0 == 1 }} {{ 0.1 + 0.2 }} {{ 1.5e3 }} {{ 100 * 1.1 }} {{ 5 // 2.0 }} {{ 1 == '1' }} {{ 2 > 1.5 }}
{{ [3, 1] | sort | first }} {{ [[2, 'a'], [1, 'b']] | sort }} {{ ['B', 'a'] | sort | join }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{{ s | list | length }} {{ 'ab' | join(',') }} {{ [1, [2, 3]] | string }} {{ d | string }} {{ none | string }} {{ t | string | lower }} {{ 'True' == t | string }}
{{ s.strip().split(' ')[0].lower() }}{{ s.split(',')[1].strip()[:5] }}{{ 'a-b_c'.replace('-', ' ').replace('_', ' ').title() }}{{ 'x=1;y=2'.split(';') | map('trim') | list }}
{{ 'line1\nline2'.split('\n') | length }} {{ '\n'.join(['a', 'b']) }} {{ 'aXbX'.split('X') }} {{ ''.split(',') }} {{ ''.split() }} {{ ' '.split(' ') }}
{{ '{:,}'.format(1234567) }} {{ '{:05.1f}'.format(2.25) }} {{ '{{}}'.format() }} {{ '{a[b]}'.format(a={'b': 1}) }} {{ '{:<4}|{:^5}|'.format('a', 'b') }} {{ '%+d' % 3 }} {{ '%5.1f' % 2.25 }} {{ '%-5s|' % 'a' }} {{ '%.2s' % 'abc' }} {{ '%s' % (1, ) }} {{ '%s %s' % ('a', [1]) }} {{ '%g' % 0.0001 }}
{{ '%s' % {'a': 1} }} {{ '%d%%' % 5 }} {{ '%s' % '%s' }} {{ '%s: %s' % (s[:5], d.z) }} {{ ('%02d' % n) ~ 'x' }} {{ '%s' % none ~ 'x' }}
{{ d | items | list }} {{ d.keys() | sort | join(',') }} {{ d.values() | map('string') | list }} {{ d | dictsort | map('first') | list }} {{ 'z' in d }} {{ 'z' in d.keys() }} {{ 1 in d.values() }} {{ d == d.copy() }} {{ d.get('m')[0] }} {{ d.get('m', [])[-1] }}
{{ d.pop('z') }}
{{ d.update({'b': 1}) }}
{{ {'a': {'b': 1}}.a.b }} {{ {'a-b': 1}['a-b'] }} {{ {1: 'x'}[1] }} {{ {(1, 2): 3}[(1, 2)] }} {{ dict(z=2).z }} {{ namespace(a=1).a }}
{% set ns = namespace() %}{% set ns.list = [] %}{% set ns.list = ns.list + ['a'] %}{% set ns.list = ns.list + ['b'] %}{{ ns.list }} {{ ns.list | length }} {{ ns.missing }} {{ ns.missing is defined }}
{% if '' %}a{% elif [] %}b{% elif {} %}c{% elif 0 %}d{% elif 0.0 %}e{% elif none %}f{% else %}g{% endif %}{% if 'x' is defined and nothing is not defined %}h{% endif %}
{%- for m in messages -%}{%- if loop.first and m.role != 'system' -%}F{%- endif -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}X{%- endif -%}{{ m.role }}{{ '\n' if not loop.last }}{%- endfor -%}
  {% if t %}  x  {% endif %}  {{ n }}  {#- c -#}  {%+ if t %} y {%+ endif %}  {%- if t +%}  z{% endif -%}  
{{ '\\d \' \" \/ \u00e9 \x41 \101' }}|{{ "a\
b" }}
{{ '😀' | length }} {{ 'é'.upper() }} {{ 'ß'.upper() }} {{ '日本語'[1:] }} {{ '日本語'[::-1] }}
{{ 'abc' | first }}{{ 'abc' | last }}{{ 'abc' | reverse }}{{ '' | first }}
"""


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


def split_snippets():
    """One template a line; lines that lead to the next (a tag of generation alone) go together with it."""
    lines, found = SNIPPETS.strip("\n").split("\n"), []
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
    write(args.out / "cases.json", {"transformers": transformers.__version__, "tokens": TOKENS, "date_string": DATE, "cases": cases})
    write(args.out / "renderings.json", hashed(renderings))
    if args.full:
        write(args.full / "renderings.json", renderings)
    snippets = [{"template": t, "text": attempt(t, [user("Hi there"), assistant("A")], **VARIABLES)} for t in split_snippets()]
    write(args.out / "snippets.json", {"variables": VARIABLES, "snippets": snippets})
    count = sum(text is not None for texts in renderings.values() for text in texts.values())
    print(f"{len(renderings)} templates x {len(cases)} cases, {count} renderings; {len(snippets)} snippets")


if __name__ == "__main__":
    main()
