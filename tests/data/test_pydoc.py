"""pydoc is built from a small installed package of the test's own, by the real build in real processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from encdec_lightning.data.sources import pydoc
from encdec_lightning.data.sources.splitting import split
from encdec_lightning.errors import UserError

NOUNS = [
    f"{first}{second}" for first in "ba ke li mo nu pa re si to vu".split() for second in "dan fer gol hat".split()
]
MODULES = 70
FILES = [f"{data_set}/{part}.jsonl" for data_set in pydoc.DATA_SETS for part in pydoc.PARTS]

# What `python -m encdec_lightning.data.sources.pydoc FOLDER` does, or `pydoc(FOLDER)`, but over the test's package.
DRIVER = """
import multiprocessing, sys, time, types
from pathlib import Path
from encdec_lightning.data.sources import pydoc
multiprocessing.set_start_method("fork")  # what is changed here is changed in its children too
mode, site, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
sys.path.insert(0, site)
pydoc.DISTRIBUTIONS = {"small": "small-package"}
pydoc.sysconfig = types.SimpleNamespace(get_paths=lambda: {"stdlib": site + "/library"})
run = pydoc.subprocess.run
if mode == "stuck":  # stop in the middle of writing
    dumps = pydoc.json.dumps
    def slow(row):
        if row[0] > "small.m2":
            Path(site, "stuck").touch()
            time.sleep(100)
        return dumps(row)
    pydoc.json = types.SimpleNamespace(dumps=slow)
if mode == "slow":
    Path(f"{site}/built-by-{folder.name}").touch()
    while not Path(site, "go").exists():
        time.sleep(0.05)
if mode == "full":  # the system's own error, in the midst of writing
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
if mode == "failing":
    raise SystemExit(3)
if mode.startswith("whole-"):  # the parent, whose child does the building
    command = [sys.executable, __file__, mode.removeprefix("whole-"), site]
    pydoc.subprocess = types.SimpleNamespace(run=lambda args, check: run([*command, args[-1]], check=check))
    print(sum(map(len, pydoc.pydoc("pydoc", folder).values())))
else:
    pairs = pydoc._docstring_pairs()
    try:
        pydoc._write(folder, pairs)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(pydoc.UNWRITTEN)
"""


def words(count, seed):
    return " ".join(random.Random(seed).choices(NOUNS, k=count))


def function(name, seed):
    return f'def {name}():\n    """Return {words(8, seed)}.\n\n    {words(25, seed + 0.5)}\n    """\n\n\n'


def name_of(number):
    """A name of four words, another one for each number."""
    return f"get_{NOUNS[number % 40]}_{NOUNS[number * 7 % 40]}_{chr(97 + number // 40)}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder like site-packages, with a package of many modules and a standard library of one."""
    root = tmp_path_factory.mktemp("site")
    (root / "driver.py").write_text(DRIVER)
    package = root / "small"
    for number, folder in enumerate(("", "tests", "inner", "__pycache__")):
        (package / folder).mkdir()
        (package / folder / "__init__.py").write_text(function("here", 3000 + number))
    for number in range(MODULES):
        (package / f"m{number}.py").write_text(function(name_of(number), number) + function("g", number + 0.25))
    (package / "nested.py").write_text(
        "class Outer:\n    '''No example.'''\n    if True:\n"
        + "".join(f"        {line}\n" for line in function("method", 2000).splitlines())
        + function("twice", 2001) + function("twice", 2002)
    )  # fmt: skip
    (package / "escape.py").write_text(function("f", 2003).replace("Return", "Return \\d"))
    (package / "latin.py").write_bytes(b"# \xe9\n" + function("f", 2004).encode())
    (package / "broken.py").write_text("def f(:\n" + function("f", 2005))
    (package / "null.py").write_bytes(b"\0" + function("f", 2006).encode())
    (package / "data.txt").write_text(function("f", 2007))
    (root / "library").mkdir()
    (root / "library" / "standard.py").write_text(function("f", 2008))
    return root


def set_version(site, version):
    for metadata in site.glob("*.dist-info/METADATA"):
        metadata.unlink()
        metadata.parent.rmdir()
    folder = site / f"small_package-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: small-package\nVersion: {version}\n")


@pytest.fixture
def small(site, monkeypatch):
    """Let this process read that package; what is called to build is counted."""
    set_version(site, "1.0")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(pydoc, "DISTRIBUTIONS", {"small": "small-package"})
    monkeypatch.setattr(pydoc, "sysconfig", types.SimpleNamespace(get_paths=lambda: {"stdlib": str(site / "library")}))
    calls = []

    def run(args, check):
        calls.append(args)
        assert args[1:3] == ["-m", "encdec_lightning.data.sources.pydoc"]
        return subprocess.run(command(site, mode[0], args[-1]), check=check, stdout=subprocess.DEVNULL)

    mode = ["plain"]
    monkeypatch.setattr(pydoc, "subprocess", types.SimpleNamespace(run=run))
    return types.SimpleNamespace(calls=calls, mode=mode)


def command(site, mode, folder):
    return [sys.executable, str(site / "driver.py"), mode, str(site), str(folder)]


@pytest.fixture(scope="module")
def built(site, tmp_path_factory):
    """The files of one build, made once."""
    set_version(site, "1.0")
    folder = tmp_path_factory.mktemp("built") / "data"
    subprocess.run(command(site, "plain", folder), check=True, stdout=subprocess.DEVNULL)
    return {file: (folder / file).read_bytes() for file in FILES}


def rows(built, data_set="pydoc", parts=pydoc.PARTS):
    return [json.loads(line) for part in parts for line in built[f"{data_set}/{part}.jsonl"].splitlines()]


def folders(cache):
    return sorted(path.name for path in (cache / "pydoc").iterdir() if not path.name.endswith(".lock"))


@pytest.mark.usefixtures("small")
def test_what_is_read(built):
    names = {row[0] for row in rows(built)}
    assert {"stdlib.standard:f", "small.inner:here", "small:here", "small.nested:Outer.method"} <= names
    assert {"small.nested:twice", "small.escape:f"} <= names
    assert not any(word in name for name in names for word in ("tests", "__pycache__", "latin", "broken", "null"))
    assert len(names) == 2 * MODULES + 6
    (twice,) = [row for row in rows(built) if row[0] == "small.nested:twice"]
    assert twice[2] == f"Return {words(8, 2001)}."  # the first of two definitions
    assert all(built.values())
    assert len(rows(built, "pydoc_names")) > MODULES / 2
    for identity, _, target in rows(built, "pydoc_names"):
        assert identity.rpartition(":")[2] == target.replace(" ", "_")


@pytest.mark.usefixtures("small")
def test_in_parallel_as_one_by_one(built):
    files = [file for package in ("small", pydoc.STANDARD_LIBRARY) for file in pydoc._files(package)]
    found = [pydoc._pairs_of_file(file) for file in reversed(files)]
    for data_set in pydoc.DATA_SETS:
        pairs = [pair for one in found for pair in one.get(data_set, [])]
        for part, members in split(pairs, pydoc._module_of).items():
            expected = [[pair.id, pair.source, pair.target] for pair in members]
            assert rows(built, data_set, [part]) == expected


def test_a_module_is_in_one_part(built):
    for data_set in pydoc.DATA_SETS:
        modules = [{row[0].partition(":")[0] for row in rows(built, data_set, [part])} for part in pydoc.PARTS]
        assert sum(map(len, modules)) == len(set.union(*modules))


def test_built_once_and_always_the_same(small, built, tmp_path):
    first = pydoc.pydoc("pydoc", tmp_path)
    assert len(small.calls) == 1
    assert pydoc.pydoc("pydoc", tmp_path) == first
    assert len(small.calls) == 1  # from the cache
    (folder,) = folders(tmp_path)
    assert {file: (tmp_path / "pydoc" / folder / file).read_bytes() for file in FILES} == built
    assert [[pair.id, pair.source, pair.target] for part in first.values() for pair in part] == rows(built)
    assert tuple(first) == pydoc.PARTS
    names = pydoc.pydoc("pydoc_names", tmp_path)
    assert sum(map(len, names.values())) == len(rows(built, "pydoc_names"))
    assert len(small.calls) == 1  # built together
    assert {type(pair).__name__ for pair in first["test"]} == {"Pair"}


def test_other_versions_are_another_cache(small, site, tmp_path, monkeypatch):
    pydoc.pydoc("pydoc", tmp_path)
    set_version(site, "1.1")
    assert pydoc.versions() == {"stdlib": ".".join(map(str, sys.version_info[:3])), "small": "1.1"}
    pydoc.pydoc("pydoc", tmp_path)
    assert len(small.calls) == len(folders(tmp_path)) == 2
    set_version(site, "1.0")
    pydoc.pydoc("pydoc", tmp_path)
    assert len(small.calls) == 2
    before = pydoc.pydoc_key()
    monkeypatch.setattr(pydoc, "VERSION", pydoc.VERSION + 1)
    assert pydoc.pydoc_key() != before


def test_a_missing_package_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pydoc, "DISTRIBUTIONS", {"small": "small-package", "none": "no-such-distribution"})
    with pytest.raises(UserError, match="reads the package no-such-distribution, which is not installed"):
        pydoc.pydoc("pydoc", tmp_path)
    assert not small.calls
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_leaves_nothing(small, tmp_path):
    small.mode[0] = "failing"
    with pytest.raises(subprocess.CalledProcessError):
        pydoc.pydoc("pydoc", tmp_path)
    assert folders(tmp_path) == []
    small.mode[0] = "plain"
    assert all(pydoc.pydoc("pydoc", tmp_path).values())


def test_a_killed_build_is_not_used(small, site, built, tmp_path):
    process = subprocess.Popen(
        command(site, "whole-stuck", tmp_path), start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (site / "stuck").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (left,) = folders(tmp_path)
    assert left.startswith(".building-")
    assert not (tmp_path / "pydoc" / left / "built" / "pydoc_names").exists()  # it was killed half way
    found = pydoc.pydoc("pydoc", tmp_path)
    assert len(small.calls) == 1
    assert sum(map(len, found.values())) == len(rows(built))


@pytest.mark.usefixtures("small")
def test_of_two_processes_one_builds(site, built, tmp_path):
    options = {"args": command(site, "whole-slow", tmp_path), "stdout": -1, "stderr": -1, "text": True}
    first = subprocess.Popen(**options)
    while first.poll() is None and not list(site.glob("built-by-*")):
        time.sleep(0.05)
    second = subprocess.Popen(**options)
    assert "waiting for another process" in second.stderr.readline()
    (site / "go").touch()
    said = [process.communicate(timeout=600) for process in (first, second)]
    (site / "go").unlink()
    assert [first.returncode, second.returncode] == [0, 0]
    assert {int(output.split()[-1]) for output, _ in said} == {len(rows(built))}
    assert "waiting" not in said[0][1]
    assert len(list(site.glob("built-by-*"))) == 1
    (folder,) = folders(tmp_path)
    assert not folder.startswith(".")


def test_a_full_disk_is_said_and_left_clean(small, tmp_path, capfd):
    small.mode[0] = "full"
    with pytest.raises(OSError, match="see the line before"):
        pydoc.pydoc("pydoc", tmp_path)
    assert "File too large" in capfd.readouterr().err
    assert folders(tmp_path) == []
    small.mode[0] = "plain"
    assert all(pydoc.pydoc("pydoc", tmp_path).values())


def test_real_packages(monkeypatch):
    """Two of the packages, a part of them: real docstrings are found and are prose."""
    monkeypatch.setattr(pydoc, "DISTRIBUTIONS", {name: pydoc.DISTRIBUTIONS[name] for name in ("rich", "pydantic")})
    assert set(pydoc.versions()) == {"stdlib", "rich", "pydantic"}
    for package, file in (("rich", "table.py"), ("pydantic", "main.py"), (pydoc.STANDARD_LIBRARY, "textwrap.py")):
        files = [found for found in pydoc._files(package) if found[1].name == file]
        assert files
        pairs = [pair for found in files for pair in pydoc._pairs_of_file(found)["pydoc"]]
        assert pairs
        for pair in pairs:
            assert pair.id.startswith(f"{package}.")
            assert f".{Path(file).stem}:" in pair.id
            assert "`" not in pair.source + pair.target


def test_every_package_is_installed_and_one_of_our_dependencies():
    assert set(pydoc.versions()) == {pydoc.STANDARD_LIBRARY, *pydoc.DISTRIBUTIONS}
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text().replace("-", "_")
    assert [name for name in pydoc.DISTRIBUTIONS.values() if f'"{name}' not in declared] == []
