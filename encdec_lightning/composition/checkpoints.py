"""Checkpoints as they lie on disk or on the Hub: their configs, and their weights, never from a pickle."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, logging
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from encdec_lightning.cache.fingerprints import state
from encdec_lightning.composition.families import shipped_config
from encdec_lightning.composition.foreign import check_files, hub_place, open_config, open_tokenizer, opened
from encdec_lightning.errors import UserError, ran_out

NOT_FOUND = "it is neither a folder with a config.json nor a checkpoint of the Hub that can be reached or is cached"
NO_TOKENIZER = "no tokenizer of it can be loaded"
OF_THE_OTHER_SIDE = "other_side."
"""Start of the names that are given to tensors of a checkpoint that are for another model."""
PANIC = "PanicException"  # of Rust, which is no Exception


def load_config(field: str, checkpoint: str) -> PretrainedConfig:
    """The config of a checkpoint; raises `UserError` naming `field` when there is none."""
    folder = Path(checkpoint)
    check_files(field, checkpoint)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(field, checkpoint, "the folder holds no config.json")
    shipped = shipped_config(checkpoint)
    if shipped is not None and not folder.is_dir():
        return AutoConfig.for_model(**shipped)
    try:
        return open_config(field, checkpoint)
    except UserError:
        raise
    except StrictDataclassError as error:
        raise UserError(field, checkpoint, f"its config.json cannot be right ({one_line(error)})") from error
    except Exception as error:  # whatever transformers trips over in what others wrote
        if ran_out(error):
            raise
        expected = (
            "transformers cannot read its config.json or does not know its family" if folder.is_dir() else NOT_FOUND
        )
        raise UserError(field, checkpoint, expected) from error


WEIGHTS_FILES = ("generation_config.json", SAFE_WEIGHTS_INDEX_NAME)
ONLY_TENSORS = {"use_safetensors": True, "weights_only": True}


def vocabulary(field: str, checkpoint: str) -> tuple[int, int | None]:
    """The size of a vocabulary and the id of its padding token, which may have none.

    They are those of the checkpoint's config; of its tokenizer where the folder holds no more than that. They are
    remembered for as long as no file of the folder changes.
    """
    files = sorted(Path(checkpoint).iterdir()) if os.path.isdir(checkpoint) else []
    return _vocabulary(field, checkpoint, tuple((file.name, *state(file)) for file in files if file.exists()))


@cache
def _vocabulary(field: str, checkpoint: str, files: tuple[tuple[str | int, ...], ...]) -> tuple[int, int | None]:
    if not os.path.isdir(checkpoint) or (Path(checkpoint) / "config.json").is_file():
        config = load_config(field, checkpoint)
        size = getattr(config, "vocab_size", None)  # an encoder-decoder's config has one for each side
        if size is not None:
            if size < 1:
                raise UserError(field, checkpoint, f"its config.json says {size} words, it must be at least 1")
            return int(size), config.pad_token_id
    try:
        tokenizer = load_tokenizer(field, checkpoint)
    except UserError as error:
        if not error.expected.startswith(NO_TOKENIZER):
            raise
        raise UserError(field, checkpoint, "the folder holds neither a config.json nor a tokenizer") from error
    return len(tokenizer), tokenizer.pad_token_id


def load_tokenizer(field: str, checkpoint: str, local_files_only: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint; raises `UserError` naming `field` when there is none."""
    try:
        tokenizer = open_tokenizer(field, checkpoint, local_files_only)
        tokenizer("a text")  # some mistakes show only then
    except UserError:
        raise
    except BaseException as error:  # whatever transformers trips over in what others wrote
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise UserError(field, checkpoint, f"{NO_TOKENIZER}{_why_no_tokenizer(checkpoint, error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of a folder without its files
        raise UserError(field, checkpoint, NO_TOKENIZER)
    return tokenizer


def _why_no_tokenizer(checkpoint: str, error: BaseException) -> str:
    """What transformers says, and the package that it may need."""
    told = " ".join(str(error).split())
    files = Path(checkpoint).iterdir() if os.path.isdir(checkpoint) else ()
    pieces = any(file.suffix in (".model", ".spm") for file in files)
    if ("sentencepiece" in told.lower() or pieces) and find_spec("sentencepiece") is None:
        return ": its words are in SentencePiece's format, which needs `pip install sentencepiece`"
    return ""


def load_weights(
    auto: Any, field: str, checkpoint: str, config: PretrainedConfig, **arguments: Any
) -> tuple[PreTrainedModel, dict[str, set[str]]]:
    """What `auto.from_pretrained` makes of a checkpoint, in fp32 unless `dtype` is given, and its loading report.

    Only safetensors are read, no pickles. Raises `UserError` for weights that are absent, damaged or of another size,
    and what torch raises where memory does not hold them.

    transformers' own report is silenced: what is missing is expected, or refused by the caller.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        check_files(field, checkpoint, *WEIGHTS_FILES)
        model, report = opened(
            auto,
            checkpoint,
            config=config,
            **{"dtype": torch.float32, **arguments, **ONLY_TENSORS, "output_loading_info": True},
        )
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(field, checkpoint, f"its safetensors cannot be read ({error})") from error
    except OSError as error:
        raise UserError(field, checkpoint, no_safetensors(checkpoint)) from error
    except Exception as error:  # whatever transformers trips over in what others wrote
        if ran_out(error):
            raise
        expected = f"transformers cannot load it ({type(error).__name__}: {one_line(error)})"
        if isinstance(error, RuntimeError) and "mismatch" in str(error):
            expected = "the weights do not have the sizes that its config.json says"
        raise UserError(field, checkpoint, expected) from error
    finally:
        logging.set_verbosity(verbosity)
    _refuse_more_layers(field, checkpoint, model, report["unexpected_keys"])
    _fill_sinusoids(model)
    _refuse_biases(field, checkpoint, model, report["unexpected_keys"])
    return model, report


def _fill_sinusoids(model: PreTrainedModel) -> None:
    """Compute a trocr's sinusoids, which transformers leaves without values: they are neither parameter nor buffer."""
    for module in model.modules():
        table = getattr(module, "weights", None)
        if isinstance(table, torch.Tensor) and table.is_meta:
            module.weights = module.get_embedding(*table.shape, module.padding_idx).to(table.dtype)


def dtype_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `from_pretrained`, with the checkpoint's own `dtype` unless one is given, by its old name too.

    Raises `UserError` for one of each side, which transformers would pass over.
    """
    old, given = arguments.get("torch_dtype"), arguments.get("dtype")
    dtype = given or old or "auto"
    if isinstance(dtype, dict):
        raise UserError("dtype", dtype, "give one for the whole model")
    return {**{name: value for name, value in arguments.items() if name != "torch_dtype"}, "dtype": dtype}


def stored_names(folder: str) -> set[str]:
    """The names of the tensors in a local folder's safetensors, of which no value is read; empty if there are none.

    Damaged files are passed over: loading says what is wrong with them.
    """
    names: set[str] = set()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with suppress(SafetensorError), safe_open(file, framework="pt") as stored:
            names |= set(stored.keys())
    return names


def one_line(error: Exception) -> str:
    """The message of an error as a part of a sentence, shortened."""
    message = " ".join(str(error).split()).rstrip(".")
    return message if len(message) <= 300 else f"{message[:300]}..."


def no_safetensors(checkpoint: str) -> str:
    """Why no safetensors are read of a checkpoint, and what to do about it."""
    if not os.path.isdir(checkpoint):
        name, revision = hub_place(checkpoint)
        of_revision = f" --revision {revision['revision']}" if revision else ""
        fetch = f"hf download {name}{of_revision} --local-dir <folder>"
        convert = "python -m encdec_lightning.composition.convert <folder>"
        return (
            "the Hub does not offer it as safetensors, or cannot be reached; other weights are converted once,"
            f" `{fetch}` and `{convert}`, and then given by their folder"
        )
    index = Path(checkpoint) / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        lacking = sorted(name for name in named if not (index.parent / name).is_file())
        return f"{index.name} names {', '.join(lacking)}, which the folder does not hold"
    pickles = [name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if (Path(checkpoint) / name).is_file()]
    if pickles:
        convert = f"python -m encdec_lightning.composition.convert {checkpoint}"
        return f"the folder holds {pickles[0]} but no model.safetensors; convert it once with `{convert}`"
    return "the folder holds no model.safetensors (other formats are not read: they can run code)"


def _refuse_more_layers(field: str, checkpoint: str, model: PreTrainedModel, unexpected: set[str]) -> None:
    """Raise when the checkpoint has layers beyond those of the config: transformers drops them without a word."""
    known = tuple(name for name, _ in model.named_parameters(remove_duplicate=False))
    for name in sorted(each for each in unexpected if not each.startswith(OF_THE_OTHER_SIDE)):
        first = re.sub(r"\.\d+\.", ".0.", name)
        if first != name and any(own.endswith(first) or first.endswith(own) for own in known):
            raise UserError(
                field, checkpoint, f"the checkpoint has more layers than its config.json says, such as {name}"
            )


def _refuse_biases(field: str, checkpoint: str, model: PreTrainedModel, unexpected: set[str]) -> None:
    """Raise when the checkpoint has biases for weights that the config gives none: transformers drops them silently."""
    base = f"{model.base_model_prefix}."
    own = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    whole = any(name.startswith(base) for name in own)  # else the model is the base model
    read = {name.removeprefix(base) for name in own if name.startswith(base) or not whole}
    for name in sorted(unexpected):
        weight, part, _ = name.removeprefix(base).rpartition("bias")
        if part and f"{weight}weight" in read:
            expected = f"the checkpoint has biases for which its config.json has no place, such as {name}"
            raise UserError(field, checkpoint, expected)
