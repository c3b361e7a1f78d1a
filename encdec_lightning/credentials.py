"""Passwords and keys in options and sentences: a run keeps and logs its options, so that they must hold none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HIDDEN = "***"
NAMES = re.compile(
    r"(^|[_.-])(password|passwd|secret|secret_key|token|api_?key|access_?key|credentials?|signature|sig)$", re.I
)
"""Names of arguments, and of a URL's parameters, whose values are secrets."""
TOKENS = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|wandb_v\d_\w{20,}|gh[pousr]_\w{20,}|AKIA[A-Z0-9]{16})")
"""Keys that can be told by their form: the Hub's, wandb's, GitHub's, Amazon's."""
IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""User and password in a URL."""


def secret_in(name: str, value: object) -> str | None:
    """What secret an argument or an option holds, in words; None if there is none."""
    if not isinstance(value, str) or not value:
        return None
    if NAMES.search(name):
        return "a secret"
    if any(":" in each for each in IN_URL.findall(value)):
        return "a password"
    if TOKENS.search(value) or any(NAMES.search(key) for key, _ in _parameters(value)):
        return "a key"
    return None


def without_secrets(text: str) -> str:
    """The text with each password and key in it hidden."""
    text = IN_URL.sub(lambda found: HIDDEN if ":" in found[0] else found[0], text)
    text = TOKENS.sub(HIDDEN, text)
    for key, value in _parameters(text):
        if NAMES.search(key) and value:
            text = text.replace(value, HIDDEN)
    return text


def secrets_of(values: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """{option: what secret it holds} of everything in nested mappings and lists."""
    found: dict[str, str] = {}
    for name, value in values.items():
        option = f"{path}{name}"
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            found |= secrets_of({str(key): each for key, each in value.items()}, f"{option}.")
        else:
            secret = secret_in(option, value)
            if secret is not None:
                found[option] = secret
    return found


def _parameters(text: str) -> list[tuple[str, str]]:
    """The parameters of the URLs in a text, as they are written there."""
    found: list[tuple[str, str]] = []
    for url in re.findall(r"\w+://[^\s'\"]+", text):
        try:
            found += [(key, value) for key, value in parse_qsl(urlsplit(url).query.replace("%", "%25"))]
        except ValueError:  # no URL after all
            continue
    return found
