"""The part of a cache's key that is a preprocessing's code: the same in every process, another where it works otherwise."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

MODULE = """
import functools

class Cut:
    def __init__(self, words):
        self.words = words
    def __call__(self, pair):
        return pair

def shorten(pair, words):
    return pair

class Opaque:
    pass

cut = Cut(5)
longer = Cut(6)
part = functools.partial(shorten, words=5)
longer_part = functools.partial(shorten, words=6)
nested = functools.partial(Cut(5), pair=Opaque())
"""
NAMES = ("cut", "longer", "part", "longer_part", "nested")
SCRIPT = "import mine; from encdec_lightning.data.preprocessing import code_hash; "
SCRIPT += f"print(*[code_hash(getattr(mine, name)) for name in {NAMES}])"


def test_a_callable_object_has_one_hash_in_every_process(tmp_path: Path):
    (tmp_path / "mine.py").write_text(MODULE)
    told = []
    for number in range(2):
        script = f"keep = [object() for _ in range({1000 * number})]; {SCRIPT}"  # other places in memory
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        told.append(done.stdout.split())
    assert told[0] == told[1]
    assert len({*told[0]}) == len(NAMES)


def test_a_partial_function_has_the_hash_of_its_function_in_it():
    from encdec_lightning.data.preprocessing import code_hash, lower_case

    assert code_hash(functools.partial(lower_case)) != code_hash(lower_case)
    assert code_hash(functools.partial(lower_case)) == code_hash(functools.partial(lower_case))
