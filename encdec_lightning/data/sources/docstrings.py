"""From one docstring to plain pairs of English prose, or to nothing."""

from __future__ import annotations

import re

SUMMARY_WORDS = (4, 30)
BODY_WORDS = (20, 350)
EMPTY_HEADINGS = tuple(f" {name}{colon}" for name in ("Example", "Examples", "References") for colon in ("", ":"))
NAME_WORDS = (2, 7)
TEXT_WORDS = (6, 60)  # a longer docstring is cut
LEAST_LETTERS = 0.75  # share of letters and spaces: below it, a row is mostly symbols

_FENCE = re.compile(r"```.*?(?:```|\Z)", re.S)
_DOCTEST = re.compile(r"^[ \t]*>>>.*?(?:\n[ \t]*\n|\Z)", re.S | re.M)
_INDENTED = r"(?:\n(?:\1[ \t]+\S.*|[ \t]*$))*"  # the lines below that are indented further than group 1
_CODE = re.compile(
    r"^([ \t]*)\.\. (?:(?:code|code-block|sourcecode|math|plot|ipython|testcode|testsetup|doctest|image|figure"
    r"|(?:list-|csv-)?table|autosummary|toctree|graphviz|raw|include|literalinclude)::|\[).*" + _INDENTED,
    re.M,
)
_LITERAL = re.compile(r"^([ \t]*)(?!\.\. )(\S.*)?::[ \t]*\n[ \t]*$" + _INDENTED, re.M)
_ADMONITION = re.compile(r"^[ \t]*\.\. (?:note|warning|tip|hint|important|caution|attention|seealso|todo)::", re.M)
_DIRECTIVE = re.compile(r"^[ \t]*\.\. ?[\w:-]*::.*$|^[ \t]*\.\. .*$|^[ \t]*!!! .*$", re.M)
_UNDERLINE = re.compile(r"^[ \t]*([=\-~^*#+_.\"'`])\1{2,}(?:[ \t]+\1{2,})*[ \t]*$", re.M)  # table borders too
_FIELD = re.compile(
    r"^[ \t]*[:@](?:param(?:eter)?|arg(?:ument)?|keyword|r?type|returns?|raises?|[ic]?var)\b[ \t]*([^:\n]*):", re.M
)
_ROLE = re.compile(r":[a-zA-Z][\w:+.-]*:(?=`)")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}")
_REFERENCE = re.compile(r"\[`([^`\]\n]*)`\](?!\()")
_MARKDOWN_LINK = re.compile(r"\[([^\[\]\n]*)\]\((?:[^()\n]|\([^()\n]*\))*\)")
_TICKED = re.compile(r"`+([^`]*)`+_{0,2}")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}([^*\n]+?)\*{1,2}(?![\w*])")
_FOOTNOTE = re.compile(r"\[#?\w*\]_|\|[^|\n]*\|_?")
_URL = re.compile(r"<?\bhttps?://\S+")
_CODE_BLOCK_COLONS = re.compile(r"::(?=\s|$)")
_LAST_NAME = re.compile(r"~[\w.]*\.(\w+)")
_TAG = re.compile(r"</?(?:Tip|br|b|i|p|code|pre|ul|li|hfoptions?)\b[^<>\n]*>")
_NAME_PARTS = re.compile(r"_+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[A-Za-z]+")


def pair_of(docstring: str) -> tuple[str, str] | None:
    """(body, summary) of a cleaned docstring as `ast.get_docstring` gives it, or None if it is no example.

    The summary is the first paragraph (PEP 257), the body all that follows. Markup, roles, back-ticks, code and
    doctests are removed; what remains has 4-30 and 20-350 words, mostly letters.
    """
    summary, separator, body = docstring.strip().partition("\n\n")
    if not separator or summary.count("\n") > 2:
        return None
    summary, body = plain(summary), plain(body)
    if not (_is_prose(summary, SUMMARY_WORDS) and _is_prose(body, BODY_WORDS)):
        return None
    return body, summary


def text_and_name(docstring: str, name: str) -> tuple[str, str] | None:
    """(docstring, name in words) of what is called `name`, or None if it is no example.

    `is_frozen_param` and `IsFrozenParam` give "is frozen param". Names of 2-7 words without digits count, dunder names
    do not; the text is cut to 60 words.
    """
    words = " ".join(_NAME_PARTS.sub(" ", name).lower().split())
    if (
        name.endswith("__")
        or not words.replace(" ", "").isalpha()
        or not NAME_WORDS[0] <= len(words.split()) <= NAME_WORDS[1]
    ):
        return None
    text = " ".join(plain(docstring).split()[: TEXT_WORDS[1]])
    return (text, words) if _is_prose(text, TEXT_WORDS) else None


def plain(text: str) -> str:
    """`text` on one line, without reStructuredText and Markdown markup, code and doctests."""
    text = _CODE.sub(" ", text)
    if "::" in text:
        text = _LITERAL.sub(r"\1\2:", text)
    for pattern in (_FENCE, _DOCTEST, _ADMONITION, _DIRECTIVE, _UNDERLINE, _FOOTNOTE, _TAG):
        text = pattern.sub(" ", text)
    text = _FIELD.sub(r"\1:", text)
    text = _ROLE.sub("", text)
    text = _LINK.sub(r"\1", text)
    text = _REFERENCE.sub(r"\1", text)
    text = _MARKDOWN_LINK.sub(r"\1", text)
    text = _URL.sub(" ", text)
    text = _TICKED.sub(r"\1", text)
    text = _LAST_NAME.sub(r"\1", text)
    text = _EMPHASIS.sub(r"\1", text)
    text = _CODE_BLOCK_COLONS.sub(":", text)
    text = " ".join(text.replace("`", " ").replace("\\", " ").split())
    while text.endswith(EMPTY_HEADINGS):  # their doctests are gone
        text = text.rpartition(" ")[0]
    return text


def _is_prose(text: str, words: tuple[int, int]) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    return (
        words[0] <= len(_WORD.findall(text)) and len(text.split()) <= words[1] and letters >= LEAST_LETTERS * len(text)
    )
