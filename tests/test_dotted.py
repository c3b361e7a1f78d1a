"""Objects by their dotted path, and what is known where there is none."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from encdec_lightning.dotted import NotImported, imported


def test_an_object_is_found() -> None:
    assert imported("collections.Counter") is collections.Counter


@pytest.mark.parametrize(
    ("path", "module_name", "cause"),
    [
        ("no_such_package.Thing", "no_such_package", ModuleNotFoundError),
        ("Thing", "", ValueError),
        ("..Thing", ".", TypeError),
    ],
)
def test_no_module(path: str, module_name: str, cause: type) -> None:
    with pytest.raises(NotImported) as caught:
        imported(path)
    assert (caught.value.module_name, caught.value.module) == (module_name, None)
    assert isinstance(caught.value.cause, cause)


def test_a_module_without_the_name() -> None:
    with pytest.raises(NotImported) as caught:
        imported("collections.Conter")
    assert caught.value.module is collections
    assert isinstance(caught.value.cause, AttributeError)


@pytest.mark.parametrize(("code", "cause"), [("1 / 0", ZeroDivisionError), ("raise SystemExit(3)", SystemExit)])
def test_whatever_a_module_raises(code: str, cause: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"raising_{cause.__name__}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotImported) as caught:
        imported(f"raising_{cause.__name__}.thing")
    assert caught.value.module is None
    assert isinstance(caught.value.cause, cause)
