"""Turn a folder's pickled weights into safetensors: `python -m encdec_lightning.composition.convert <folder>`.

torch reads them with `weights_only=True`, which builds tensors and runs nothing of the file's.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from encdec_lightning.errors import UserError, exit_code
from encdec_lightning.files import kind_of, replacing, write_text

SHARD = re.compile(r"pytorch_model([^/\\\0]{0,200})\.bin")
"""The name of one of several files of weights."""
SHARED_BY_SIDES, EMBEDDINGS = re.compile(r"(^|\.)shared\."), re.compile(r"embed(?!_out)|(^|\.)wte\.")
"""Parts of names of word embeddings. A head has other ones."""


def convert(folder: Path) -> Path:
    """Write `model.safetensors` beside `pytorch_model.bin`; of several files, one beside each, and their index.

    A tensor under several names is kept under one, a word embedding's rather than a head's: whatever opens the folder
    makes a head of the embeddings, and an encoder has no head. Overwrites nothing. Returns the path of
    `model.safetensors` or of the index. Raises `UserError` if there is nothing to convert, or a file holds anything but
    tensors.
    """
    if kind_of(folder / WEIGHTS_NAME) == "file":
        targets = {WEIGHTS_NAME: SAFE_WEIGHTS_NAME}
    elif kind_of(folder / WEIGHTS_INDEX_NAME) == "file":
        targets = {name: SHARD.sub(r"model\1.safetensors", name) for name in _shards(folder)}
    else:
        raise UserError("folder", str(folder), f"it holds no {WEIGHTS_NAME} and no {WEIGHTS_INDEX_NAME}")
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, *targets.values()):
        if kind_of(folder / name) is not None:
            raise UserError("folder", str(folder), f"it holds a {name} already")
    places: dict[str, str] = {}
    try:
        for source, target in targets.items():
            tensors = _tensors(folder, source)
            with replacing(folder / target) as stream:
                stream.write(save(tensors, metadata={"format": "pt"}))
            places |= dict.fromkeys(tensors, target)
    except BaseException:  # all of the weights or none
        for target in set(places.values()):
            (folder / target).unlink()
        raise
    written: Path = folder / (SAFE_WEIGHTS_NAME if WEIGHTS_NAME in targets else SAFE_WEIGHTS_INDEX_NAME)
    if WEIGHTS_NAME not in targets:
        write_text(written, json.dumps({"metadata": {}, "weight_map": places}, indent=2))
    return written


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a pickle, each in memory of its own and under one name. Raises `UserError`."""
    try:
        state = torch.load(folder / name, map_location="cpu", weights_only=True)
        tensors = {key: state[key].contiguous() for key in sorted(state, key=_rank)}
        kept: dict[tuple[int, torch.Size], str] = {}
        for key, tensor in tensors.items():
            kept.setdefault((tensor.data_ptr(), tensor.shape), key)
        return {key: tensors[key].clone() for key in kept.values()}
    except Exception as error:  # whatever torch trips over in what others wrote
        raise UserError("folder", str(folder), f"its {name} is damaged or holds more than tensors") from error


def _rank(name: str) -> tuple[bool, bool, str]:
    """What the names of one tensor are sorted by, the one that is kept first."""
    return SHARED_BY_SIDES.search(name) is None, EMBEDDINGS.search(name) is None, name


def _shards(folder: Path) -> list[str]:
    """The files that an index of pickles names. Raises `UserError` unless the folder holds them."""
    try:
        names = sorted(set(json.loads((folder / WEIGHTS_INDEX_NAME).read_bytes())["weight_map"].values()))
        strange = [name for name in names if not SHARD.fullmatch(name)]
    except Exception as error:  # whatever others wrote
        raise UserError("folder", str(folder), f"its {WEIGHTS_INDEX_NAME} is no index of weights") from error
    if strange or not names:
        expected = f"its {WEIGHTS_INDEX_NAME} must name files such as pytorch_model-00001-of-00002.bin"
        raise UserError("folder", str(folder), expected)
    lacking = [name for name in names if kind_of(folder / name) != "file"]
    if lacking:
        raise UserError("folder", str(folder), f"its {WEIGHTS_INDEX_NAME} names {', '.join(lacking)}, which it lacks")
    return names


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m encdec_lightning.composition.convert <folder>", file=sys.stderr)
        sys.exit(2)
    sys.exit(exit_code(lambda: print(f"wrote {convert(Path(sys.argv[1]))}")))
