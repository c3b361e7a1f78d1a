"""The embedded data sets, out of the docstrings of the Python packages that are installed anyway.

`pydoc` is docstring body -> summary line, `pydoc_names` is docstring -> name of what it describes, in words.

Nothing is downloaded, imported or redistributed: sources are read with `ast`, in processes of their own
(`python -m encdec_lightning.data.sources.pydoc FOLDER`), and the pairs are cached on disk under the packages' versions.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from encdec_lightning.cache.entries import entry
from encdec_lightning.data.sources.docstrings import pair_of, text_and_name
from encdec_lightning.data.sources.splitting import split
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

SUMMARIES, NAMES = "pydoc", "pydoc_names"
DATA_SETS = (SUMMARIES, NAMES)
PARTS = ("train", "validation", "test")
VERSION = 4  # of the cleaning, the split and the folder: part of the cache's key
STANDARD_LIBRARY = "stdlib"
UNWRITTEN = 73  # exit code of a process that could not write what it had built
DISTRIBUTIONS = {  # {import name: distribution}, all of them this project's own dependencies
    "huggingface_hub": "huggingface_hub",
    "lightning": "lightning",
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "nltk": "nltk",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "rich": "rich",
    "sympy": "sympy",
    "torch": "torch",
    "torchmetrics": "torchmetrics",
    "transformers": "transformers",
    "wandb": "wandb",
}
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "testing", "__pycache__", "idlelib", "lib2to3"}


def pydoc(data_set: str, cache: Path) -> dict[str, list[Pair]]:
    """{"train", "validation", "test"} pairs of a data set; all are built once for each set of package versions.

    Raises `OSError` when the cache cannot be written.
    """
    folder = cache / "pydoc" / pydoc_key()
    entry(folder, _build_in_a_process)
    return {part: _read(folder / data_set / f"{part}.jsonl") for part in PARTS}


def versions() -> dict[str, str]:
    """{import name: version} of what is read. Raises `UserError` when a package is not installed."""
    found = {STANDARD_LIBRARY: ".".join(map(str, sys.version_info[:3]))}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(
                "task.train", SUMMARIES, f"it reads the package {distribution}, which is not installed"
            ) from error
    return found


def pydoc_key() -> str:
    """A hash of all that the data sets are made from."""
    return hashlib.sha256(json.dumps([VERSION, versions()], sort_keys=True).encode()).hexdigest()[:16]


def _build_in_a_process(folder: Path) -> None:
    """Build in a process of its own: forking here could inherit locks of threads that torch has started."""
    result = subprocess.run([sys.executable, "-m", "encdec_lightning.data.sources.pydoc", str(folder)], check=False)
    if result.returncode == UNWRITTEN:
        raise OSError(None, "see the line before")
    result.check_returncode()


def build(folder: Path) -> None:
    """Read every package and write the parts of every data set into a new folder."""
    _write(folder, _docstring_pairs())


def _docstring_pairs() -> dict[str, list[Pair]]:
    """The pairs of every package by data set."""
    from rich.progress import track

    files = [file for package in (*DISTRIBUTIONS, STANDARD_LIBRARY) for file in _files(package)]
    pairs: dict[str, list[Pair]] = {data_set: [] for data_set in DATA_SETS}
    with ProcessPoolExecutor() as pool:
        results = pool.map(_pairs_of_file, files, chunksize=32)
        for found in track(results, description="pydoc: reading docstrings", total=len(files)):
            for data_set, members in found.items():
                pairs[data_set] += members
    return pairs


def _write(folder: Path, pairs: dict[str, list[Pair]]) -> None:
    for data_set in DATA_SETS:
        (folder / data_set).mkdir(parents=True)
        for part, members in split(pairs[data_set], group=_module_of).items():
            with (folder / data_set / f"{part}.jsonl").open("w", encoding="utf-8") as stream:
                for pair in members:
                    stream.write(json.dumps([pair.id, pair.source, pair.target]) + "\n")


def _read(path: Path) -> list[Pair]:
    return [Pair(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _files(package: str) -> Iterator[tuple[str, Path]]:
    """(module name, path) of each of a package's source files, sorted."""
    if package == STANDARD_LIBRARY:
        root = Path(sysconfig.get_paths()["stdlib"])
    else:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None  # `versions` has found it
        root = Path(spec.origin).parent
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for file in sorted(files):
            if file.endswith(".py"):
                path = Path(folder, file)
                parts = path.relative_to(root).with_suffix("").parts
                yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def _pairs_of_file(file: tuple[str, Path]) -> dict[str, list[Pair]]:
    """The examples of one source file by data set; a file that is not Python of this version gives none."""
    module, path = file
    try:
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():  # about their literals: shown they disturb, as errors they would lose the file
            warnings.simplefilter("ignore")
            tree = ast.parse(text) if '"""' in text or "'''" in text else ast.Module([], [])
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return {}
    docstrings: dict[str, str] = {}
    for name, docstring in _docstrings(tree, ""):
        docstrings.setdefault(f"{module}:{name}", docstring)
    texts = {
        SUMMARIES: {identity: pair_of(docstring) for identity, docstring in docstrings.items()},
        NAMES: {
            identity: text_and_name(docstring, identity.rpartition(":")[2].rpartition(".")[2])
            for identity, docstring in docstrings.items()
        },
    }
    return {
        data_set: [Pair(identity, *pair) for identity, pair in found.items() if pair is not None]
        for data_set, found in texts.items()
    }


def _docstrings(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of every class and function below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{child.name}"
            docstring = ast.get_docstring(child)
            if docstring:
                yield name, docstring
            yield from _docstrings(child, f"{name}.")
        elif isinstance(child, ast.stmt):
            yield from _docstrings(child, prefix)


def _module_of(pair: Pair) -> str:
    return pair.id.partition(":")[0]


if __name__ == "__main__":
    collected = _docstring_pairs()
    try:
        _write(Path(sys.argv[1]), collected)
    except OSError as unwritten:
        print(unwritten, file=sys.stderr)
        sys.exit(UNWRITTEN)
