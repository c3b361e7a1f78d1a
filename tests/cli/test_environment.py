"""What commands say to the libraries that they load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from encdec_lightning.cli import environment

PROGRAM = """
import json, os, sys
from encdec_lightning.cli.arguments import command
from encdec_lightning.cli.environment import BEFORE_TORCH
assert "torch" not in sys.modules
command(lambda: print(json.dumps({name: os.environ.get(name) for name in BEFORE_TORCH})))
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["10000", "64", "64"]),
        ({"LRU_CACHE_CAPACITY": "7"}, ["10000", "7", "64"]),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, [None, "64", "64"]),
    ],
)
def test_the_environment_is_set_where_the_user_has_not(chosen: dict[str, str], expected: list[str | None]) -> None:
    names = ("GOMP_SPINCOUNT", "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "OMP_WAIT_POLICY")
    values = {name: value for name, value in os.environ.items() if name not in names} | chosen
    output = subprocess.run([sys.executable, "-c", PROGRAM], env=values, check=True, capture_output=True, text=True)
    assert list(json.loads(output.stdout).values()) == expected


STARTED = """
import os, sys
from encdec_lightning.cli.environment import GLIBC, PRELOADED, start_again
if "traced" in sys.argv:
    sys.settrace(lambda *_: None)
print("started", os.getpid(), os.environ.get(GLIBC), os.environ.get(PRELOADED), sys.argv[1:], flush=True)
start_again(os.environ["COMMAND"])
print("goes on", flush=True)
"""
glibc = pytest.mark.skipif(not environment._has_glibc(), reason="the C library is not glibc")


def started(tmp_path: Path, name: str, arguments: list[str], chosen: dict[str, str]) -> list[str]:
    """What a program of that name prints, which is asked to start again."""
    program = tmp_path / name
    program.write_text(STARTED)
    names = (environment.GLIBC, environment.PRELOADED)
    values = {each: value for each, value in os.environ.items() if each not in names} | chosen
    values["COMMAND"] = name.removeprefix("encdec-").removesuffix(".py")
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, env=values, check=True, capture_output=True, text=True).stdout.splitlines()


@glibc
@pytest.mark.parametrize("name", ["encdec-train", "encdec-evaluate", "encdec-predict"])
def test_a_command_starts_again_once_with_what_its_allocator_reads(tmp_path: Path, name: str) -> None:
    arguments = ["task=jsonl", "name=a b", "x='$HOME'"]
    first, second, last = started(tmp_path, name, arguments, {})
    said = environment.before_start()
    assert said and last == "goes on"
    assert first.split()[2:4] == ["None", "None"] and first.endswith(str(arguments))
    told = [said.get(environment.GLIBC, "None"), said.get(environment.PRELOADED, "None")]
    assert second == first.replace("None None", " ".join(told))  # the process is the same


@glibc
@pytest.mark.parametrize(
    ("name", "arguments", "chosen"),
    [
        ("train.py", [], {}),  # a script of the user's own, which has done something before
        ("encdec-train", ["--help"], {}),
        ("encdec-train", ["task=jsonl", "--cfg"], {}),
        ("encdec-train", ["traced"], {}),
        ("encdec-evaluate", ["metrics=[rouge]", "predictions=a.txt,b.txt"], {}),
        ("encdec-train", [], {environment.GLIBC: ""}),
        ("encdec-train", [], {environment.GLIBC: "glibc.malloc.arena_max=1"}),
        ("encdec-train", [], {"LD_PRELOAD": "libc.so.6"}),
    ],
)
def test_other_processes_go_on(tmp_path: Path, name: str, arguments: list[str], chosen: dict[str, str]) -> None:
    first, last = started(tmp_path, name, arguments, chosen)
    assert first.split()[2].startswith(chosen.get(environment.GLIBC) or ("None" if not chosen else ""))
    assert last == "goes on"


@glibc
@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_the_module_starts_again_too_and_its_refusals_are_said_once(tmp_path: Path, name: str) -> None:
    values = {
        name: value for name, value in os.environ.items() if name not in (environment.GLIBC, environment.PRELOADED)
    }
    command = [sys.executable, "-X", "importtime", "-m", f"encdec_lightning.cli.{name}", "run=nothing"]
    found = subprocess.run(command, env=values, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 2 and found.stdout == ""
    said = [line for line in found.stderr.splitlines() if not line.startswith("import time:")]
    assert sum("nothing" in line for line in said) == 1
    assert found.stderr.count(" encdec_lightning.cli.environment\n") == 2


@glibc
def test_another_allocator_is_found_where_it_is_for_this_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "TCMALLOC", ("liballocator.so.4", "libother.so.4"))
    folders = [tmp_path / name for name in ("text", "other", "cut-off", "spaces in it", "right", "later")]
    monkeypatch.setenv("LD_LIBRARY_PATH", ":".join(["", *map(str, folders)]))
    header = bytearray(Path(sys.executable).read_bytes()[:20])
    assert environment.before_start() == environment.GLIBC_SETTINGS
    for folder in folders:
        folder.mkdir()
    (folders[0] / "liballocator.so.4").write_text("a text that is long enough")
    (folders[2] / "liballocator.so.4").write_bytes(header)
    (folders[3] / "liballocator.so.4").write_bytes(header)  # whose path the variable cannot hold
    header[18] ^= 1
    (folders[1] / "liballocator.so.4").write_bytes(header)
    assert environment.before_start() == environment.GLIBC_SETTINGS
    (folders[4] / "libother.so.4").write_bytes(header)
    (folders[5] / "liballocator.so.4").write_bytes(header)
    tried, seen = environment._is_sound, list[str]()

    def is_sound(given: dict[str, str]) -> bool:
        seen.append(Path(given[environment.PRELOADED]).parent.name)
        return seen[-1] in ("right", "later") or tried(given)

    monkeypatch.setattr(environment, "_is_sound", is_sound)
    preloaded = {environment.PRELOADED: str(folders[4] / "libother.so.4")}
    assert environment.before_start() == preloaded | environment.TCMALLOC_SETTINGS
    assert seen == ["text", "other", "cut-off", "right"]


tcmalloc = pytest.mark.skipif(
    environment.PRELOADED not in environment.before_start(), reason="tcmalloc is not installed"
)


@tcmalloc
def test_the_users_settings_stay(tmp_path: Path) -> None:
    setting = {"TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": "5"}
    program = tmp_path / "encdec-train"
    program.write_text(STARTED + "print(os.environ['TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD'])\n")
    names = (environment.GLIBC, environment.PRELOADED)
    values = {name: value for name, value in os.environ.items() if name not in names} | setting | {"COMMAND": "train"}
    found = subprocess.run([sys.executable, str(program)], env=values, check=True, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "5"


@tcmalloc
def test_tcmalloc_allocates_and_says_nothing() -> None:
    program = """
import ctypes
malloc = ctypes.CDLL(None).malloc
malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
print(malloc(1 << 31) is not None, any("libtcmalloc" in line for line in open("/proc/self/maps")))
"""
    values = os.environ | environment.before_start()
    found = subprocess.run([sys.executable, "-c", program], env=values, check=True, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("True True\n", "")


def test_a_debugger_of_later_pythons_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    tools: dict[int, str] = {}
    monkeypatch.setattr(sys, "gettrace", lambda: None)  # which measures what tests cover
    monkeypatch.setattr(sys, "monitoring", SimpleNamespace(get_tool=tools.get), raising=False)
    assert not environment._is_watched()
    tools[0] = "debugpy"
    assert environment._is_watched()


def test_elsewhere_nothing_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> str:
        raise ValueError(name)

    monkeypatch.setattr(os, "confstr", nowhere)
    assert not environment._has_glibc()
    monkeypatch.delattr(os, "confstr")
    assert not environment._has_glibc()
