"""Jira's wiki markup reads as Markdown; its words stay and its code is untouched."""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.text import wiki
from extractors.text.boilerplate import normalize

CASES = {
    "heading": ("h3. A *b*", "### A **b**"),
    "heading without a blank": ("h6.Environment", "###### Environment"),
    "file that looks like a heading": ("h1.png", "h1.png"),
    "strong and emphasis": ("*a b* and _c_", "**a b** and *c*"),
    "emphasis within strong": ("*a _b_ c*", "**a *b* c**"),
    "stars and underscores that mean themselves": (
        "2*3*4 snake_case_name __init__ *.js a * b",
        "2*3*4 snake_case_name __init__ *.js a * b",
    ),
    "dashes are no strike": ("-x- well-known-word", "-x- well-known-word"),
    "monospace": ("{{a_b*c*d}} {{f({x})}}", "`a_b*c*d` `f({x})`"),
    "escapes": (r"\{code} \*a\* \[b]", "{code} *a* [b]"),
    "paths of Windows": (r"C:\Users\_me \\server\x", r"C:\Users\_me \\server\x"),
    "line break": ("a\\\\ b", "a\nb"),
    "code with language": ("{code:java}\nint x;\n{code}", "```java\nint x;\n```"),
    "code with title": ("{code:lang=js|title=app.js|borderStyle=solid}x{code}", "app.js:\n\n```js\nx\n```"),
    "code is kept to the character": (
        "{code}\n *a* {quote} \\\\ h1. x\t\n\n\n\n  [b|http://c]\n{code}",
        "```\n *a* {quote} \\\\ h1. x\t\n\n\n\n  [b|http://c]\n```",
    ),
    "code that holds a fence": ("{code}```{code}", "````\n```\n````"),
    "preformatted": ("{noformat}a {code} b{noformat}", "```\na {code} b\n```"),
    "code without an end": ("a {code} *b*\nh1. c", "a\n\n```\n *b*\nh1. c\n```"),
    "quote": ("{quote}\na\n\nb\n{quote}\nc", "> a\n>\n> b\n\nc"),
    "code in a quote": ("{quote}{code}x{code}{quote}", "> ```\n> x\n> ```"),
    "quote without an end": ("a {quote} b", "a\n\nb"),
    "quoted line": ("bq. a", "> a"),
    "panel": ("{panel:title=T|bgColor=#fff}a{panel}", "**T**\n\na"),
    "colour": ("a {color:#f00}*b*{color} f{color:red}a{color}iled", "a **b** failed"),
    "anchor": ("{anchor:top}a", "a"),
    "braces that are no macro": ("{foo} ${bar} {title}", "{foo} ${bar} {title}"),
    "html": ("{html}<p>a <b>c</b></p>{html}", "a **c**"),
    "html without an end": ("{html}\na\nb", "a\nb"),
    "adf": (
        '{adf:display=block}{"type":"expand","attrs":{"title":"T"},"content":[{"type":"text","text":"a"}]}{adf}',
        "**T**\n\na",
    ),
    "adf that is none": ("{adf}[{adf}", "["),
    "bullets": ("* a\n** b\n* c", "- a\n  - b\n- c"),
    "numbers": ("# a\n## b\n## c\n# d", "1. a\n   1. b\n   2. c\n2. d"),
    "mixed list": ("# a\n#* b\n# c", "1. a\n   - b\n2. c"),
    "list that begins deep": ("** a\n** b", "- a\n- b"),
    "dashes as bullets": ("- a\n- b", "- a\n- b"),
    "line that goes on": ("* a\nb\n\nc", "- a\n  b\n\nc"),
    "list after text": ("a\n* b", "a\n\n- b"),
    "table": (
        "||h||i||\n|a *b*|[t|http://x.example]|",
        "| h | i |\n| --- | --- |\n| a **b** | [t](http://x.example) |",
    ),
    "pipes that are no table": ("a || b\n|| c", "a || b\n|| c"),
    "rule": ("a\n----\nb", "a\n\n---\n\nb"),
    "link": ("[t|http://x.example/a_b_c]", "[t](http://x.example/a_b_c)"),
    "link with options": ("[t|http://x.example|smart-link]", "[t](http://x.example)"),
    "bare link": ("[http://x.example] [mailto:a@b.example]", "http://x.example a@b.example"),
    "link without words": ("see[|http://x.example]", "see http://x.example"),
    "brackets that are no link": ("[INFO] [a|b] a[0] [#12]", "[INFO] [a|b] a[0] [#12]"),
    "user": ("[~ann] [~accountid:5f:1]", "@ann @5f:1"),
    "user next to a word": ("[~ann]said", "@ann said"),
    "attachment": ("[^log.txt]", "[attachment: log.txt]"),
    "image": (
        "!a b.png|thumbnail! !http://x.example/i.png!",
        "[image: a b.png] [image: http://x.example/i.png]",
    ),
    "exclamations": ("wow! see a.txt now!", "wow! see a.txt now!"),
    "underscores in a URL": ("http://x.example/_a_b_ *c*", "http://x.example/_a_b_ **c**"),
    "line ends of Windows": ("a\r\n* b\r\n", "a\n\n- b"),
    "Markdown fence left open": ("```\na", "```\na\n```"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_each_markup_reads_as_markdown(text: str, expected: str) -> None:
    assert wiki.to_markdown(text) == expected


MARKUP = (  # noqa: SIM905
    "* # - ## *# h1. bq. {code} {code:java} {noformat} {quote} {panel:title=zeta} {color:red} {color} {html} {{ }} "
    "| || [ ] [~ ! ---- \\\\ \\ _ ` ``` > {adf} {unknown} [omega|http://x.example]"
).split()
SOUP = st.lists(
    st.sampled_from(MARKUP) | st.sampled_from(["\n", " ", "\r\n"]) | st.text(alphabet="abc é", max_size=6)
).map("".join)


@given(SOUP)
def test_words_survive_any_soup_of_markup(soup: str) -> None:
    words = re.findall(r"[abcé]+", re.sub(r"\{[^{}]*\}|h1\.|bq\.|http://x.example", " ", soup))
    out = wiki.to_markdown(soup)
    assert [word for word in words if word not in out] == []


@given(st.text())
def test_no_text_makes_it_fail(anything: str) -> None:
    assert isinstance(wiki.to_markdown(anything), str)


CODE = st.text(
    alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\r"), min_size=1
).filter(lambda code: code.strip() and "{code}" not in code.lower() and not code.startswith("\n"))


@given(CODE)
def test_any_code_is_kept_to_the_character(code: str) -> None:
    out = wiki.to_markdown(f"before\n{{code}}\n{code}\n{{code}}\nafter")
    assert re.fullmatch(r"before\n\n(`{3,})\n(.*)\n\1\n\nafter", out, re.DOTALL)[2] == code  # type: ignore[index]


@pytest.mark.alone
@pytest.mark.parametrize(
    "unit",
    ["[", "{", "{{a ", "{code:x}", "{html:x}", "{quote}", "!a.b", "!a.bcd|", "*",
     "*a ", "_a ", "|", "|[", "\\", "# x\n", "* x\n** y\n", "- ", "```\n"],
)  # fmt: skip
def test_repeated_markup_takes_linear_time(unit: str) -> None:
    started = time.perf_counter()
    wiki.to_markdown("a" + unit * (200_000 // len(unit)) + "z")
    assert time.perf_counter() - started < 3


def texts_of(line: bytes | str) -> list[str]:
    fields = json.loads(line)["fields"]
    comments = (fields.get("comment") or {}).get("comments", [])
    texts = [fields.get("description"), *(comment.get("body") for comment in comments)]
    return [text for text in texts if text]


def missing_words(text: str) -> set[str]:
    """Words that stand outside of markup in `text`, and are not in what is made of it."""
    prose = re.sub(r"\{(?:color)[^{}\n]*\}", "", normalize(text))
    prose = re.sub(r"\{(?:code|noformat|quote|panel|html|anchor)[^{}\n]*\}|<[^<>]*>|&\w+;", " ", prose)
    prose = re.sub(r"(![^!\n|]+)\|[^!\n]*!|\bh[1-6]\.|\bbq\.|mailto:", r"\1 ", prose)
    return set(re.findall(r"[^\W_]+", prose)) - set(re.findall(r"[^\W_]+", normalize(wiki.to_markdown(text))))


def test_no_word_of_real_descriptions_and_comments_is_lost(shared_data: Path) -> None:
    sample = (shared_data / "jira" / "jira_v2_tidev_sample.jsonl").read_text().splitlines()
    texts = [text for line in sample for text in texts_of(line)]
    assert len(texts) > 163
    assert {
        text[:80]: missing for text in texts if "&" not in text and (missing := missing_words(text))
    } == {}


@pytest.mark.alone
def test_the_odd_records_of_a_real_jira_are_read_within_seconds(shared_data: Path) -> None:
    with (shared_data / "edge_cases.tsv").open() as lines:
        odd = {line.split("\t")[1] for line in lines if line.startswith("jira/jira_v2_tidev.jsonl.gz\t")}
    texts: list[str] = []
    with gzip.open(shared_data / "jira" / "jira_v2_tidev.jsonl.gz") as issues:
        for line in issues:
            found = re.search(rb'"key": ?"([A-Z]+-\d+)"', line)
            if (found and found[1].decode() in odd) or len(line) > 300_000:
                texts.extend(texts_of(line))
    assert max(map(len, texts)) > 3_000_000
    slowest = 0.0
    for text in texts:
        started = time.perf_counter()
        normalize(wiki.to_markdown(text)).encode()
        slowest = max(slowest, time.perf_counter() - started)
    assert slowest < 2
