"""The house keeps its shape: rooms import leftwards, files stay short, the map is true, nothing heavy loads early."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import encdec_lightning

HOUSE = Path(encdec_lightning.__file__).parent
ROOMS = [
    *("records", "signals", "credentials", "dotted", "errors", "progress", "files", "owner", "cache", "advice"),
    *("run", "cluster"),
    "hparams_search",
    *("evaluation", "kernels", "composition"),
    *("data", "generation", "training"),
    *("reporting", "config", "rules", "launch", "prediction", "cli"),
]
INSIDE = {
    "composition": [
        *("options", "signature", "cross_attending", "layout", "architecture", "architectures", "causality"),
        *("convert", "families", "foreign", "gguf_checkpoint", "local_checkpoints", "checkpoints", "bert_score"),
        *("adapter", "sentence_rules", "sides", "labels", "sharing", "composed_model", "lora"),
        *("bulk_tokenizer", "sentence_tokenizer", "tokenizers", "segments", "model", "prefix"),
        *("sentence_head", "sentence_scorer", "assembly"),
        *("parameters", "paper", "checks", "compatibility", "compose"),
    ],
    "data": ["options", "preprocessing", "sources", "examples", "batches", "inspection", "datamodule"],
    "launch": [
        *(
            "command_line",
            "slots",
            "settle",
            "auto_precision",
            "loggers",
            "job",
            "checks",
            "elsewhere",
            "garbage",
            "nursery",
            "processes",
            "run_folder",
            "submit",
        ),
        *("worker", "prepare", "evaluation", "points", "hparams_search", "sweep"),
    ],
}
"""The order of imports inside a room that has folders."""
FILES = sorted(file.relative_to(HOUSE).as_posix() for file in HOUSE.rglob("*.py"))
MODULES = [file for file in FILES if not file.endswith("__init__.py")]
MAY_NAME_PRIVATE_THINGS = {
    "transformers": {
        *(f"composition/{name}.py" for name in ("sharing", "model", "prefix", "sentence_scorer")),
        "kernels/attention_interface.py",
        "generation/cache.py",
    },
    "torch": {f"kernels/{name}.py" for name in ("attention", "int8_linear", "onednn_linear", "products", "stand_in")},
    "hydra": {"launch/sweep.py"},
}
"""The files that name private parts of a library; tests/upstream has a test of each such fact."""
PRIVATE = {
    name
    for kind in (
        transformers.PreTrainedModel,
        transformers.EncoderDecoderModel,
        transformers.PreTrainedConfig,
        transformers.PreTrainedTokenizerFast,
        transformers.GenerationConfig,
        transformers.GenerationMixin,
        transformers.DynamicCache,
    )
    for name in dir(kind)
    if re.match("_[^_]", name) and not hasattr(torch.nn.Module, name)  # what they inherit is torch's
}


def tree(file: str) -> ast.Module:
    return ast.parse((HOUSE / file).read_text(encoding="utf-8"))


def imports(file: str) -> Iterator[str]:
    """The modules a file imports, wherever in it."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module or ""


def room(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def test_every_file_is_in_a_room():
    assert {room(file) for file in FILES} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("file", MODULES)
def test_imports_go_leftwards_only(file):
    for name in imports(file):
        package, _, rest = name.partition(".")
        if package == "encdec_lightning" and rest:
            target = rest.partition(".")[0]
            assert target == room(file) or ROOMS.index(target) < ROOMS.index(room(file)), f"{file} imports {name}"


@pytest.mark.parametrize("file", [file for file in MODULES if room(file) in INSIDE])
def test_folders_inside_a_room_import_leftwards_only(file):
    order = INSIDE[room(file)]
    own = order.index(file.split("/")[1].removesuffix(".py"))
    for name in imports(file):
        if name.startswith(f"encdec_lightning.{room(file)}."):
            target = order.index(name.split(".")[2])
            assert target <= own, f"{file} imports {name}"


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith("__init__.py") and file != "__init__.py"])
def test_rooms_have_no_code_at_their_door(file):
    assert all(isinstance(node, ast.Expr) for node in tree(file).body)


@pytest.mark.parametrize("file", [file for file in MODULES if file.endswith("options.py")])
def test_options_need_the_standard_library_only(file):
    for name in imports(file):
        package = name.partition(".")[0]
        assert package in sys.stdlib_module_names or name == "encdec_lightning.errors", f"{file} imports {name}"


@pytest.mark.parametrize("file", FILES)
def test_files_are_short(file):
    assert len((HOUSE / file).read_text(encoding="utf-8").splitlines()) < 300


def test_tests_are_short_and_have_names_of_their_own():
    tests = [file for file in Path(__file__).parent.rglob("*.py") if file.name != "conftest.py"]
    assert [file.name for file in tests if len(file.read_text(encoding="utf-8").splitlines()) >= 300] == []
    names = [file.name for file in tests]
    assert {name for name in names if names.count(name) > 1} == set()
    assert "__init__.py" not in names


PRIVATE_OF_TORCH = {
    name
    for thing in (
        nn.Module(),
        torch.zeros(0),
        torch.optim.SGD([torch.zeros(1)]),
        torch.Generator(),
        torch.autograd.Function,
    )
    for name in dir(thing)
    if re.match("_[^_]", name)
}


def private_names(module: ast.Module) -> Iterator[str]:
    """Names of transformers' own that a file reads, sets or imports, self's included."""
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE:
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in PRIVATE:
            yield node.value  # getattr(model, "_name")
        elif isinstance(node, ast.ClassDef):
            assigned = [each for each in node.body if isinstance(each, ast.Assign | ast.AnnAssign)]
            targets = [
                t for each in assigned for t in (each.targets if isinstance(each, ast.Assign) else [each.target])
            ]
            methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
            yield from PRIVATE & {*methods, *(target.id for target in targets if isinstance(target, ast.Name))}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if part.startswith("_"))


def private_parts(module: ast.Module, library: str) -> Iterator[str]:
    """What a file names of a library by a path with a private part, and of torch's objects their private names."""
    ours = set()  # names that the library has given to the file
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            paths = {(alias.asname or alias.name.partition(".")[0]): alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            paths = {(alias.asname or alias.name): f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        found = {name: path.split(".") for name, path in paths.items() if path.partition(".")[0] == library}
        ours |= set(found)
        yield from (part for path in found.values() for part in path if re.match("_[^_]", part))
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            is_its_own = isinstance(root, ast.Name) and root.id in ours
            if is_its_own or (library == "torch" and node.attr in PRIVATE_OF_TORCH):
                yield node.attr
        elif library == "torch" and isinstance(node, ast.Constant) and node.value in PRIVATE_OF_TORCH:
            yield node.value  # getattr(module, "_name")


@pytest.mark.parametrize("library", ["torch", "hydra"])
@pytest.mark.parametrize("file", MODULES)
def test_private_parts_of_torch_and_hydra_stay_in_a_few_files(file, library):
    found = set(private_parts(tree(file), library))
    may = file in MAY_NAME_PRIVATE_THINGS[library]
    assert bool(found) == may, f"{file} names {sorted(found)}" if found else f"{file} needs no leave any more"


def test_private_parts_are_found():
    text = "import torch\nfrom torch import nn as n\nfrom hydra._x import a\ntorch.ops.y._z(n._q)\nvars(m)['_modules']"
    assert set(private_parts(ast.parse(text), "torch")) == {"_z", "_q", "_modules"}
    assert set(private_parts(ast.parse(text), "hydra")) == {"_x"}


@pytest.mark.parametrize("file", [file for file in MODULES if file not in MAY_NAME_PRIVATE_THINGS["transformers"]])
def test_private_names_of_transformers_stay_in_a_few_files(file):
    """`_init_weights` of our own class and the like count: they are transformers' business too."""
    found = set(private_names(tree(file)))
    assert not found, f"{file} names {sorted(found)}"


def test_private_names_are_found():
    allowed = {
        name for file in MAY_NAME_PRIVATE_THINGS["transformers"] & set(FILES) for name in private_names(tree(file))
    }
    assert allowed  # else the rule above is vain
    assert set(private_names(ast.parse("from transformers._x import _y\nm._tied_weights_keys"))) >= {"_x", "_y"}


def mapped() -> set[str]:
    """The paths that the package's docstring names; a folder is named with a slash."""
    found, room = set(), ""
    drawn = str(encdec_lightning.__doc__).partition("Each room's options")[0]
    for line in drawn.splitlines():
        heading = re.match(r"    (\S+(?:, \S+)*)  ", line)
        if heading:
            room = heading[1] if heading[1].endswith("/") else ""
            found |= {room} if room else set(heading[1].split(", "))
        if line.startswith("    "):
            words = re.findall(r"[a-z0-9_]+(?:\.py|/)(?=[,;]|$)", line[31:])
            found |= {f"{room}{word}" for word in words}
    return found


def test_every_path_on_the_map_exists():
    missing = [path for path in mapped() if not (HOUSE / path).exists()]
    assert missing == []


def test_every_module_is_on_the_map():
    named = mapped()
    assert len(named) > 30
    options = {file for file in MODULES if file.endswith("/options.py")}  # "each room's options.py"
    missing = [
        file for file in set(MODULES) - options if file not in named and not file.startswith("training/callbacks/")
    ]
    assert missing == []


def test_every_public_name_is_there():
    for name in encdec_lightning.__all__:
        assert getattr(encdec_lightning, name).__module__.startswith("encdec_lightning")
    assert set(encdec_lightning.__all__) <= set(dir(encdec_lightning))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = encdec_lightning.nothing


LIGHT = """
import contextlib, io, sys
import encdec_lightning
import encdec_lightning.config
from encdec_lightning.cli import check, evaluate, predict, prepare, sweep, train

for command in (check, train, evaluate, predict, prepare, sweep):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        command.main(["--help"])
    assert command is sweep or command.main(["runn=x"]) == 2
print([name for name in ("torch", "transformers", "lightning") if name in sys.modules])
"""


def test_a_help_text_and_a_mistyped_option_need_no_torch():
    result = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[]\n"
    assert result.stderr.count("did you mean") == 5
