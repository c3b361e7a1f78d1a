"""Preprocessing functions, `Pair -> Pair | None`, and how one of them, or a user's own, is found by its dotted path."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from encdec_lightning.dotted import NotImported, imported
from encdec_lightning.errors import UserError, reason
from encdec_lightning.records import Pair

Preprocess = Callable[[Pair], Pair | None]
SPLIT_MARK = "<::::>"
ASCII_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'"})
NYT50_WORDS = 50
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def join_split_sentences(pair: Pair) -> Pair:
    """WikiSplit's target without the mark between its sentences."""
    return replace(pair, target=" ".join(pair.target.replace(SPLIT_MARK, " ").split()))


def swap(pair: Pair) -> Pair:
    """Source and target the other way round: fusion from pairs made for splitting."""
    return replace(pair, source=pair.target, target=pair.source)


def ascii_quotes(pair: Pair) -> Pair:
    """Typographic quotes as ASCII in both texts, as for the paper's translation scores (Rothe et al., section 4)."""
    return replace(pair, source=pair.source.translate(ASCII_QUOTES), target=pair.target.translate(ASCII_QUOTES))


def lower_case(pair: Pair) -> Pair:
    """Both texts in lower case."""
    return replace(pair, source=pair.source.lower(), target=pair.target.lower())


def target_of_50_words(pair: Pair) -> Pair | None:
    """Only pairs whose target has at least 50 words: the NYT50 test set (Durrett et al. 2016)."""
    return pair if len(pair.target.split()) >= NYT50_WORDS else None


def preprocessing(option: str, path: str) -> Preprocess:
    """The function at a dotted path; raises `UserError` when there is none."""
    try:
        function = imported(path)
    except NotImported as error:
        expected = f"the module {error.module_name} cannot be imported ({reason(error.cause)})"
        if isinstance(error.cause, ImportError | AttributeError | TypeError | ValueError):
            expected = f"it must be the dotted path of a function Pair -> Pair | None ({error.cause})"
        raise UserError(option, path, expected) from error.cause
    if not callable(function):
        raise UserError(option, path, "it is not a function")
    return function  # type: ignore[no-any-return]


def code_hash(function: Preprocess) -> str:
    """A hash of the file that defines a function, with which its work may change; of an object, of its state too.

    Of an object's parts the text counts that `repr` gives, without places in memory, which differ in each process.
    """
    if isinstance(function, functools.partial):
        state = (
            f"{code_hash(function.func)} {ADDRESS.sub('', repr((function.args, sorted(function.keywords.items()))))}"
        )
        return hashlib.sha256(state.encode()).hexdigest()
    plain = inspect.unwrap(function)
    is_object = not (inspect.isroutine(plain) or inspect.isclass(plain))
    try:
        source = Path(inspect.getfile(type(plain) if is_object else plain)).read_bytes()
    except (TypeError, OSError):  # built in, or made at a prompt
        source = ADDRESS.sub("", repr(plain)).encode()
    state = ADDRESS.sub("", repr(plain) + repr(getattr(plain, "__dict__", None))) if is_object else ""
    return hashlib.sha256(source + state.encode()).hexdigest()
