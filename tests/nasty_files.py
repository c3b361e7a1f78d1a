"""Malformed files, places and command lines: what `nasty` says of single options, said of all that is read."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from nasty import LONG, Case

DIGITS = "1" + "0" * 5000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(9)
)
HEAD = "# @package _global_\n"
YAMLS: dict[str, bytes] = {
    "no UTF-8": "seed: 1 # größe".encode("latin-1"),
    "including itself": b"# @package _global_\ndefaults:\n  - mine\nseed: 1\n",
    "3,000 brackets": (HEAD + "seed: " + "[" * 3000 + "]" * 3000).encode(),
    "3,000 open brackets": (HEAD + "seed: " + "[" * 3000).encode(),
    "a bomb": (HEAD + BOMB).encode(),
    "holding itself": (HEAD + "optimizer: &a {betas: *a}\n").encode(),
    "a list": b"- seed\n- 1\n",
    "a scalar": b"seed\n",
    "zero bytes": b"seed: \0\n",
    "half a mapping": b"seed: {a\n",
    "a tag of Python": (HEAD + "name: !!python/object/apply:os.system ['touch executed']\n").encode(),
    "a number of 5,000 digits": f"{HEAD}seed: {DIGITS}\n".encode(),
    "a number that is none": f"{HEAD}generation:\n  length_penalty: .nan\n".encode(),
    "a date as a key": f"{HEAD}optimizer:\n  2020-01-01: 1\n".encode(),
    "half a surrogate pair": f'{HEAD}name: "\\ud800"\n'.encode(),
    "a zero byte in a text": f'{HEAD}folder: "a\\0b"\n'.encode(),
    "an option that there is not": f"{HEAD}generation:\n  num_beam: 2\n".encode(),
    "a node that is a number": f"{HEAD}training: 5\n".encode(),
    "an interpolation of itself": f"{HEAD}name: ${{name}}\n".encode(),
    "defaults that are none": b"defaults: 5\n",
    "a default that is none": b"defaults:\n  - [a, b]\n",
}
ROWS: dict[str, bytes] = {
    "a number of 5,000 digits": f'{{"document": {DIGITS}, "summary": "b", "key": "1"}}\n'.encode(),
    "a number instead of a text": b'{"document": 5, "summary": "b", "key": "1"}\n',
    "3,000 brackets": b'{"document": ' + b"[" * 3000 + b"]" * 3000 + b', "summary": "b", "key": "1"}\n',
    "200,000 open brackets": b"[" * 200_000 + b"\n",
    "no UTF-8": '{"document": "größe", "summary": "b", "key": "1"}\n'.encode("latin-1"),
    "a list": b"[1, 2]\n",
    "nothing": b"",
    "a line without an end": b"x" * 3_000_000,
    "half a row": b'{"document": "a", "summ',
    "half a surrogate pair": b'{"document": "\\ud800", "summary": "b", "key": "1"}\n',
    "zero bytes": b"\0" * 5000,
    "an empty text": b'{"document": "", "summary": "b", "key": "1"}\n',
    "a key of 100,000 characters": f'{{"{LONG}": 1}}\n'.encode(),
    "a text of 6,000,000 characters": b'{"document": "' + b"a " * 3_000_000 + b'", "summary": "b", "key": "1"}\n',
}
OTHERS: dict[str, bytes] = {
    "a.csv": b'document,summary,key\n"a,b,c\n',
    "b.csv": b"document,document,key\na,b,c\n",
    "c.tsv": b"document\tsummary\tkey\na\tb\n",
    "d.parquet": b"PAR1 no parquet PAR1",
    "e.jsonl.gz": b"\x1f\x8b\x08\0 broken",
    "f.jsonl.zst": b"(\xb5/\xfd broken",
    "g.jsonl.xz": b"\xfd7zXZ\0 broken",
    "h.jsonl.bz2": b"BZh9 broken",
    "i.zip": b"PK\x03\x04 broken",
    "j.jsonl+k": b"{}",
}
PLACES: dict[str, str] = {
    "too long": LONG[:5000],
    "too long a part": f"{'x' * 300}/y.jsonl",
    "a zero byte": "a\0b.jsonl",
    "a folder": "folder.jsonl",
    "a pipe": "pipe.jsonl",
    "a device": "/dev/null",
    "a link to nothing": "link.jsonl",
    "a link to itself": "loop.jsonl",
    "nothing": "nowhere.jsonl",
    "inside a file": "file.jsonl/x.jsonl",
    "an empty word": "",
}
LINES = (
    "=", "seed", "=1", "+~seed=1", "seed==1", "seed:1", "~seed", "seed=1,2", "seed=[1", "variant=", "variant=null", "variant=[bertshare", "task@=x", "variant@a@b=x", "hydra=x", "hydra.run.dir=x",
    "--no-such-flag", "-x", "name={a=b}", "task.columns=[a=b]", "trainer.max_steps=many", "trainer.max_steps=1.5", "optimizer.betas=abc", "optimizer.betas=[a,b]", "trainer.gradient_clip_val=-1",
    "generation.length_penalty=nan", "run=a", f"{'x' * 5000}=1", "a\nb=1", "ä=1", "task.preprocess=[os.system]", "task.preprocess=[a..b]", "task.metrics=['']", "task.metrics=[.]", "task.baselines=[lead_-1_words]",
    "callbacks.x=5", "callbacks.x._target_=os.system", "callbacks.x._target_=.", "logger.x._target_=[a]", "model.encoder_layers=[1,1]", "model.encoder_layers=10000000", "task.train=hub:", "task.train=hub:a:b:c:d:e",
    "task.train=a+b+c", "task.train=x.zip/y", "task.train=ftp://x/y.jsonl", "task.train=http:///x.jsonl", "task.train=://", "experiment=../../x", "variant=/etc/passwd", "hparams_search=learning_rate", "checkpoints.bert=[a]",
    f"task.columns=[{','.join(['a'] * 20_000)}]", f"name={'(' * 500}", f"optimizer.betas={'[' * 3000}", f"name={'${' * 200}", "name=${oc.env:NO_SUCH_VARIABLE}", "name=${name}", "seed=${seed}",
)  # fmt: skip


def places(folder: Path) -> None:
    """A folder, a pipe, links and a file by the names of `PLACES`."""
    (folder / "folder.jsonl").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "link.jsonl").symlink_to("gone")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "file.jsonl").write_text("{}")


def zips() -> dict[str, bytes]:
    """Archives with odd members."""
    found = {}
    names = {
        "up": ["../../x.jsonl"],
        "twice": ["a.jsonl", "b.jsonl"],
        "none": [],
        "odd": ["a\nb\x1b[31m.jsonl"],
        "nested": ["a.zip"],
    }
    for name, members in names.items():
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for member in members:
                archive.writestr(member, "no row\n")
        found[name] = stream.getvalue()
    found["no text as a name"] = found["up"].replace(b"../../x.jsonl", b"../..\xff\xfe.jsonl"[:13].ljust(13, b"x"))
    encrypted = bytearray(found["up"])
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(sign) + at] |= 1
    found["encrypted"] = bytes(encrypted)
    method = bytearray(found["up"])
    for sign, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        method[method.index(sign) + at] = 99
    found["packed in no known way"] = bytes(method)
    return found


def _written(name: str, content: bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return make


def _sparse(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as stream:
            stream.truncate(100_000_000)

    return make


def _pipe(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    return make


def from_lines() -> list[Case]:
    """Words of a command line, for each command that takes them."""
    return [
        *(
            Case(f"{command} {line[:30]}", command, (line,))
            for line in LINES
            for command in ("train", "check", "prepare")
        ),
        Case("two runs", "evaluate", ("run=a", "run=b"), fields=("run",), refused=True),
        Case("two runs", "train", ("run=a", "run=b"), fields=("run",), refused=True),
        Case("two runs", "predict", ("run=a", "run=b", "input=-"), fields=("run",), refused=True),
    ]


def from_presets() -> list[Case]:
    """Presets of a user's own."""
    argv = ("--config-dir=own", "variant=mine")
    makes = {name: _written("own/variant/mine.yaml", content) for name, content in YAMLS.items()}
    makes |= {"100 MB": _sparse("own/variant/mine.yaml"), "a pipe": _pipe("own/variant/mine.yaml")}
    makes["a folder"] = lambda folder: (folder / "own/variant/mine.yaml").mkdir(parents=True)
    found = [Case(f"preset: {name}", "check", argv, make, refused=True) for name, make in makes.items()]
    return [
        *found,
        *(
            Case(f"presets in {name}", "check", (f"--config-dir={place}",), places, refused=True)
            for name, place in PLACES.items()
            if name != "a folder"
        ),
    ]


def from_runs() -> list[Case]:
    """Folders that are no runs, and configs of runs, for the commands that take one."""
    makes = {name: _written("bad/config.yaml", content) for name, content in YAMLS.items()}
    makes |= {"100 MB": _sparse("bad/config.yaml"), "a pipe": _pipe("bad/config.yaml")}
    found = []
    for command, more in (("evaluate", ()), ("predict", ("input=-",)), ("train", ())):
        found += [
            Case(f"{command} a run's config: {name}", command, ("run=bad", *more), make, refused=True)
            for name, make in makes.items()
        ]
        found += [
            Case(f"{command} a run in {name}", command, (f"run={place}", *more), places, ("run",), refused=True)
            for name, place in PLACES.items()
        ]
    return found


def from_data() -> list[Case]:
    """Training files, and inputs of encdec-predict."""
    files = {
        **{f"{name.replace(' ', '_')}.jsonl": rows for name, rows in ROWS.items()},
        **OTHERS,
        **{f"{name}.zip": content for name, content in zips().items()},
    }
    found = []
    for name, content in files.items():
        found.append(Case(f"train {name}", "check", (f"task.train={name}",), _written(name, content), ("task.",)))
        found.append(
            Case(
                f"input {name}",
                "predict",
                ("run={world}/run", f"input={name}"),
                _written(name, content),
                ("input", "checkpoint", "task."),
            )
        )
    for option in (
        "task.train",
        "model.encoder",
        "model.decoder_vocabulary",
        "init_from",
        "checkpoint",
        "folder",
        "data.cache",
    ):
        found += [
            Case(f"{option} {name}", "train", (f"{option}={place}",), places, (option, "argument"))
            for name, place in PLACES.items()
        ]
    for option in ("output", "checkpoint", "format", "scores"):
        found += [
            Case(
                f"{option} {name}",
                "predict",
                ("run={world}/run", "input={world}/test.jsonl", f"{option}={place}"),
                places,
                (option, "checkpoint"),
            )
            for name, place in PLACES.items()
        ]
    return found
