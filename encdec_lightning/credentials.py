"""Passwords and keys in options and sentences: a run keeps and logs its options, so that they must hold none."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HIDDEN = "***"
NAMES = re.compile(
    r"(^|[_.-])(password|passwd|pwd|passphrase|secret|secret[_-]?key|token|api[_-]?key|access[_-]?key(_id)?|credentials?"
    r"|private[_-]?key|secret[_-]?access[_-]?key|signature|sig|authorization|auth)$",
    re.I,
)
"""Names of arguments, of a URL's parameters and of environment variables, whose values are secrets."""
SHORTEST = 8  # characters of a secret that is known by its value alone
TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|wandb_v\d_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|A[KS]IA[A-Z0-9]{16}"
    r"|AIza[\w-]{35}|npm_[A-Za-z0-9]{36}|xox[abeprs]-[\w-]{10,}|sk-(proj-|ant-\w+-)?[A-Za-z0-9_]{32,}"
    r"|Bearer +[^\s'\"]{8,})|-----BEGIN [A-Z ]*PRIVATE KEY-----[^'\"]*"
)
"""Keys that can be told by their form: the Hub's, wandb's, GitHub's, GitLab's, Amazon's, Google's, npm's, and more."""
IN_URL = re.compile(r"(?<!\w)(\w+)://([^/@\s'\"]+)(?=@)")
"""Scheme, user and password in a URL."""
ASSIGNED = re.compile(r"(?<![\w.-])([\w.-]+)=([^\s'\",\]}&]+)")
"""What a line of a shell or of this package's options gives to a name."""


def secret_in(name: str, value: object) -> str | None:
    """What secret an argument or an option holds, in words; None if there is none."""
    if type(value) is int and _is_secret(name) and not name.lower().endswith("token"):  # else it may be a word's number
        return "a secret"
    if not isinstance(value, str) or not value:
        return None
    if _is_secret(name):
        return "a secret"
    if any(map(_is_login, IN_URL.finditer(value))):
        return "a password"
    parameters = any(_is_parameter(key, each) for key, each in _parameters(value))
    if parameters or TOKENS.search(value) or any(each in value for each in _of_environment()):
        return "a key"
    return None


def without_secrets(text: str) -> str:
    """The text with each password and key in it hidden, those of the environment too."""
    text = IN_URL.sub(lambda found: f"{found[1]}://{HIDDEN}" if _is_login(found) else found[0], text)
    text = TOKENS.sub(HIDDEN, text)
    for key, value in _parameters(text):
        if value and _is_parameter(key, value):
            text = text.replace(value, HIDDEN)
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    return ASSIGNED.sub(lambda found: f"{found[1]}={HIDDEN}" if _is_secret(found[1]) else found[0], text)


def secrets_of(values: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """{option: what secret it holds} of everything in nested mappings and lists."""
    found: dict[str, str] = {}
    for name, value in values.items():
        option = f"{path}{name}"
        if isinstance(value, list | tuple):
            if _is_secret(option) and any(isinstance(each, str) for each in value):
                found[option] = "a secret"
                continue
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            found |= secrets_of({str(key): each for key, each in value.items()}, f"{option}.")
        else:
            secret = secret_in(option, value)
            if secret is not None:
                found[option] = secret
    return found


@functools.lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    """Whether what has this name is a secret; `secretAccessKey` is read as `secret_Access_Key`."""
    return NAMES.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)) is not None


def _is_parameter(name: str, value: str) -> bool:
    """Whether a URL's parameter is a secret; a `key` is one where it is long."""
    return _is_secret(name) or (name.lower() == "key" and len(value) > 2 * SHORTEST)


def _is_login(found: re.Match[str]) -> bool:
    """Whether a URL holds more than a name: a password, or what is alone before the @ of a web address."""
    return ":" in found[2] or found[1].lower().rpartition("+")[2] in ("http", "https")


def _of_environment() -> Iterator[str]:
    """Secrets that the environment holds, where this package asks for them to be."""
    named = ((name, value) for name, value in os.environ.items() if name != "PWD")  # the working folder
    return (value for name, value in named if len(value) >= SHORTEST and _is_secret(name))


def _parameters(text: str) -> list[tuple[str, str]]:
    """The parameters of the URLs in a text, as they are written there."""
    found: list[tuple[str, str]] = []
    for url in re.findall(r"(?<!\w)\w+://[^\s'\"]+", text):
        try:
            parts = urlsplit(url)
            for each in (parts.query, parts.fragment):
                found += [(key, value) for key, value in parse_qsl(each.replace("%", "%25"))]
        except ValueError:  # no URL after all
            continue
    return found
