"""Turn a folder's pytorch_model.bin into model.safetensors: `python -m encdec_lightning.composition.convert <folder>`.

torch reads it with `weights_only=True`, which builds tensors and runs nothing of the file's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save

from encdec_lightning.errors import UserError, exit_code
from encdec_lightning.files import kind_of, replacing

PICKLE, SAFETENSORS = "pytorch_model.bin", "model.safetensors"


def convert(folder: Path) -> Path:
    """Write `model.safetensors` beside `pytorch_model.bin`; a tensor under several names is kept under the first.

    Overwrites nothing. Raises `UserError` if there is nothing to convert, or the file holds anything but tensors.
    """
    source, target = folder / PICKLE, folder / SAFETENSORS
    if kind_of(source) != "file":
        raise UserError("folder", str(folder), f"it holds no {PICKLE}")
    if kind_of(target) is not None:
        raise UserError("folder", str(folder), f"it holds a {SAFETENSORS} already")
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        tensors = {name: state[name].contiguous() for name in sorted(state)}
        kept: dict[tuple[int, torch.Size], str] = {}
        for name, tensor in tensors.items():
            kept.setdefault((tensor.data_ptr(), tensor.shape), name)
        content = save({name: tensors[name].clone() for name in kept.values()}, metadata={"format": "pt"})
    except Exception as error:  # whatever torch trips over in what others wrote
        raise UserError("folder", str(folder), f"its {PICKLE} is damaged or holds more than tensors") from error
    with replacing(target) as stream:
        stream.write(content)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m encdec_lightning.composition.convert <folder>", file=sys.stderr)
        sys.exit(2)
    sys.exit(exit_code(lambda: print(f"wrote {convert(Path(sys.argv[1]))}")))
