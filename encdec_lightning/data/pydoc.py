"""pydoc, the embedded data set: docstring body -> summary line, out of the Python packages that are installed anyway.

Nothing is downloaded, imported or redistributed: sources are read with `ast`, in processes of their own
(`python -m encdec_lightning.data.pydoc FOLDER`), and the pairs are cached on disk under the packages' versions.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from encdec_lightning.data.docstrings import pair_of
from encdec_lightning.data.splitting import split
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

NAME = "pydoc"
VERSION = 2  # of the cleaning and the split: part of the cache's key
STANDARD_LIBRARY = "stdlib"
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


def pydoc(cache: Path) -> dict[str, list[Pair]]:
    """{"train", "validation", "test"} pairs; built once for each set of package versions, in about half a minute."""
    folder = cache / NAME / _key(versions())
    if not folder.is_dir():
        _build_once(folder)
    return {part: _read(folder / f"{part}.jsonl") for part in ("train", "validation", "test")}


def versions() -> dict[str, str]:
    """{import name: version} of what is read. Raises `UserError` when a package is not installed."""
    found = {STANDARD_LIBRARY: ".".join(map(str, sys.version_info[:3]))}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(
                "task.train", NAME, f"it reads the package {distribution}, which is not installed"
            ) from error
    return found


def _key(found: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([VERSION, found], sort_keys=True).encode()).hexdigest()[:16]


def _build_once(folder: Path) -> None:
    """Build beside the folder and rename: a killed build leaves no half cache, and of two builders one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as name:
        built = Path(name) / "built"
        # A process of its own: forking here could inherit locks of threads that torch has started.
        subprocess.run([sys.executable, "-m", "encdec_lightning.data.pydoc", str(built)], check=True)
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(built)


def build(folder: Path) -> None:
    """Read every package and write the three parts into a new folder."""
    from rich.progress import track

    files = [file for package in (*DISTRIBUTIONS, STANDARD_LIBRARY) for file in _files(package)]
    pairs: list[Pair] = []
    with ProcessPoolExecutor() as pool:
        results = pool.map(_pairs_of_file, files, chunksize=32)
        for found in track(results, description="pydoc: reading docstrings", total=len(files)):
            pairs += found
    parts = split(pairs, group=_module_of)
    folder.mkdir(parents=True)
    for part, members in parts.items():
        with (folder / f"{part}.jsonl").open("w", encoding="utf-8") as stream:
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


def _pairs_of_file(file: tuple[str, Path]) -> list[Pair]:
    """The examples of one source file; a file that is not Python of this version gives none."""
    module, path = file
    try:
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():  # about their literals: shown they disturb, as errors they would lose the file
            warnings.simplefilter("ignore")
            tree = ast.parse(text) if '"""' in text or "'''" in text else ast.Module([], [])
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return []
    found: dict[str, Pair] = {}
    for name, docstring in _docstrings(tree, ""):
        pair = pair_of(docstring)
        if pair is not None:
            identity = f"{module}:{name}"
            found.setdefault(identity, Pair(identity, *pair))
    return list(found.values())


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
    build(Path(sys.argv[1]))
