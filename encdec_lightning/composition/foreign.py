"""The one door to transformers' loaders: code that a checkpoint brings never runs, and nobody is asked whether it may.

What others wrote is looked at before transformers reads it: the kind and size of the files, the sizes and the classes
that a config names. A test holds that no other file calls `from_pretrained` or `from_config` of transformers.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import constants, get_session
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import dynamic_module_utils as remote_code
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING, get_tokenizer_config
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, DummyObject

from encdec_lightning.cache.fingerprints import state
from encdec_lightning.cache.folder import kept_checkpoints
from encdec_lightning.composition.families import LARGEST_CONFIG
from encdec_lightning.errors import UserError
from encdec_lightning.files import kind_of

BRINGS_CODE = "it brings code of its own, which is never run"
NO_SUCH_NAME = (
    "it is neither a folder with a config.json nor a checkpoint of the Hub, whose names are <owner>/<name> or"
    " <owner>/<name>@<revision>"
)
NOT_KEPT = "it is not in the cache folder yet; the preset that names it says which command puts it there"
CONFIG, TOKENIZER_CONFIG, ADAPTER = "config.json", "tokenizer_config.json", "adapter_config.json"
MAPPINGS = {
    CONFIG: LARGEST_CONFIG,
    TOKENIZER_CONFIG: 64 << 20,
    ADAPTER: 16 << 20,
    "generation_config.json": 16 << 20,
    "special_tokens_map.json": 16 << 20,
    "added_tokens.json": 64 << 20,
    SAFE_WEIGHTS_INDEX_NAME: 64 << 20,
}
"""Files that must hold a JSON mapping, and the bytes that they may have."""
LARGEST_VOCABULARY = 512 << 20  # bytes of tokenizer.json and the like
MOST_LAYERS = 1_000
MOST_MODULES = 30_000  # a bert of 1,000 layers has 18,000; they take seconds to build
MOST_PARAMETERS = 10**13
SECONDS = 5  # for the Hub to answer
CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
NEVER = {"trust_remote_code": False}


def hub_place(checkpoint: str) -> tuple[str, dict[str, str]]:
    """The Hub id of `<owner>/<name>[@<revision>]`, and `{"revision": ...}` where one is named."""
    name, _, revision = checkpoint.partition("@")
    return name, {"revision": revision} if revision else {}


def opened(loader: Any, checkpoint: str, **arguments: Any) -> Any:
    """`loader.from_pretrained(checkpoint, **arguments)`, `loader` being a class of transformers, or `super()` in one.

    Raises whatever transformers does, and `RecursionError` or `ValueError` for a model of too many modules.
    """
    if not os.path.isdir(checkpoint):
        checkpoint, revision = hub_place(checkpoint)
        local = arguments.get("local_files_only") or not hub_answers()
        arguments = {**revision, **arguments, "local_files_only": local}
    with _asking_nobody(), _limited_modules(), _converting_nothing():
        return loader.from_pretrained(checkpoint, **{**arguments, **NEVER})


@contextmanager
def _converting_nothing() -> Iterator[None]:
    """Let transformers ask no service on the Hub to convert weights: that would tell it which ones, and not last.

    Where the service has answered before, a machine without a network would not find what it has made.
    """
    before = os.environ.get(CONVERSION)
    os.environ[CONVERSION] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[CONVERSION]
        else:
            os.environ[CONVERSION] = before


def built(auto: Any, config: PretrainedConfig, **arguments: Any) -> PreTrainedModel:
    """`auto.from_config(config, **arguments)`: a model with random values.

    Raises `ValueError` for one that is too large to be meant.
    """
    with _asking_nobody(), _limited_modules():
        model: PreTrainedModel = auto.from_config(config, **{**arguments, **NEVER})
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"it would have {count} parameters")
    return model


def open_config(field: str, checkpoint: str) -> PretrainedConfig:
    """The config of a folder or a Hub id; raises `UserError` for one that asks for what is not done here.

    That of a folder is remembered for as long as no file of that kind changes in it: a composition asks twenty times.
    """
    check_files(field, checkpoint, CONFIG, ADAPTER)
    if os.path.isdir(checkpoint):
        files = sorted(Path(checkpoint).glob("config*.json"))
        return copy.deepcopy(_of_folder(field, checkpoint, tuple((file.name, *state(file)) for file in files)))
    name, revision = hub_place(checkpoint)
    values, _ = PretrainedConfig.get_config_dict(name, local_files_only=not hub_answers(), **revision)
    check_values(field, checkpoint, values)
    return opened(AutoConfig, checkpoint)


@functools.lru_cache
def _of_folder(field: str, checkpoint: str, files: tuple[tuple[str | int, ...], ...]) -> PretrainedConfig:
    check_values(field, checkpoint, _mapping(field, checkpoint, CONFIG) or {})
    return opened(AutoConfig, checkpoint)


def open_tokenizer(field: str, checkpoint: str, local_files_only: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a Hub id; raises `UserError`, and for a broken one whatever transformers does."""
    check_files(field, checkpoint, CONFIG, *(name for name in MAPPINGS if "token" in name))
    if os.path.isdir(checkpoint):
        config, own = (_mapping(field, checkpoint, name) or {} for name in (CONFIG, TOKENIZER_CONFIG))
    else:
        local = local_files_only or not hub_answers()
        config = {}
        name, revision = hub_place(checkpoint)
        with suppress(OSError):  # there may be none
            config, _ = PretrainedConfig.get_config_dict(name, local_files_only=local, **revision)
        own = get_tokenizer_config(name, local_files_only=local, **revision)
    check_values(field, checkpoint, config)
    _refuse_class(field, checkpoint, config, own)
    try:
        return opened(AutoTokenizer, checkpoint, local_files_only=local_files_only)
    except Exception as error:
        if own.get("auto_map") or config.get("auto_map"):
            raise UserError(field, checkpoint, f"no tokenizer of it can be loaded, for {BRINGS_CODE}") from error
        raise


def check_files(field: str, checkpoint: str, *mappings: str) -> None:
    """Raise `UserError` for a folder with pipes, devices or files too large among what is read of a checkpoint.

    `mappings` are files that must hold a JSON mapping, if they are there. Nothing is checked of a Hub id but its form.
    """
    kind = kind_of(checkpoint)
    if kind is None:
        if Path(checkpoint).parent == kept_checkpoints():
            raise UserError(field, checkpoint, NOT_KEPT)
        if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?(@[\w./-]{1,200})?", checkpoint) or checkpoint in (".", ".."):
            raise UserError(field, checkpoint, NO_SUCH_NAME)
        return
    if kind != "folder":
        raise UserError(field, checkpoint, "it is no folder")
    for path in Path(checkpoint).iterdir():
        if path.suffix not in (".json", ".txt", ".model", ".safetensors", ".jinja", ".tiktoken", ".spm", ".bpe"):
            continue
        if kind_of(path) == "other":
            raise UserError(field, checkpoint, f"its {path.name} is no regular file")
        limit = MAPPINGS.get(path.name, LARGEST_VOCABULARY)
        if path.suffix != ".safetensors" and kind_of(path) == "file" and path.stat().st_size > limit:
            raise UserError(field, checkpoint, f"its {path.name} is larger than {limit >> 20} MB, which none is")
    for name in mappings:
        values = _mapping(field, checkpoint, name)
        if name == SAFE_WEIGHTS_INDEX_NAME and values is not None:
            _check_index(field, checkpoint, values)
    if (Path(checkpoint) / ADAPTER).is_file():
        expected = "it is an adapter of peft; merge it into its base model first (`merge_and_unload`)"
        raise UserError(field, checkpoint, expected)


def _check_index(field: str, checkpoint: str, values: dict[str, Any]) -> None:
    """Raise `UserError` unless an index says which files of the folder hold which tensors."""
    names = values.get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and re.fullmatch(r"[^/\\\0]{1,200}\.safetensors", name) for name in names.values()
    ):
        expected = f"its {SAFE_WEIGHTS_INDEX_NAME} must map each tensor to a safetensors file of the folder"
        raise UserError(field, checkpoint, expected)


def _mapping(field: str, checkpoint: str, name: str) -> dict[str, Any] | None:
    """What a JSON file of a folder holds; None if there is no such file."""
    path = Path(checkpoint) / name
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(field, checkpoint, f"its {name} cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise UserError(field, checkpoint, f"its {name} holds a {type(values).__name__}, it must be a mapping")
    return values


def check_values(field: str, checkpoint: str, values: dict[str, Any]) -> None:
    """Raise `UserError` for a config of a family that its own code defines, or that asks for code or too much.

    Parts of the config that are configs themselves are checked too.
    """
    family = values.get("model_type")
    if values.get("auto_map") and (not isinstance(family, str) or family not in CONFIG_MAPPING):
        raise UserError(field, checkpoint, f"its family {family} is not one of transformers' own, and {BRINGS_CODE}")
    if values.get("transformers_weights") is not None:
        name = values["transformers_weights"]
        raise UserError(
            field, checkpoint, f"its transformers_weights name {name!r}, but model.safetensors alone is read"
        )
    for name, value in values.items():
        name = str(name)  # a checkpoint's may be numbers, such as those of labels
        if name.endswith("_implementation") and "/" in str(value):  # of attention, or of experts
            raise UserError(field, checkpoint, f"its {name} {value} is code of the Hub, which is never run")
        if "layer" in name and type(value) is int and value > MOST_LAYERS:
            raise UserError(field, checkpoint, f"its config.json says {name} = {value}, more than {MOST_LAYERS}")
        if isinstance(value, dict):
            check_values(field, checkpoint, value)


def _refuse_class(field: str, checkpoint: str, config: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise `UserError` where a class that is no tokenizer would open it: `AutoConfig` asks about code once more."""
    for values in (own, config):
        name = values.get("tokenizer_class") or "PreTrainedTokenizerFast"
        found = getattr(transformers, name, None) if isinstance(name, str) else name
        if found is not None and not _is_tokenizer(found):
            raise UserError(
                field, checkpoint, f"its tokenizer_class is {name!r}, which is no tokenizer of transformers"
            )
    family = config.get("model_type")
    kind = CONFIG_MAPPING[family] if isinstance(family, str) and family in CONFIG_MAPPING else None
    if kind is not None and not _is_tokenizer(TOKENIZER_MAPPING.get(kind, None) or PreTrainedTokenizerBase):
        raise UserError(field, checkpoint, f"its family {family} has no tokenizer of one piece")


def _is_tokenizer(found: Any) -> bool:
    """Or the place holder of one, whose package is not installed: it says so when it is used."""
    return isinstance(found, DummyObject) or (isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase))


def hub_answers() -> bool:
    """Whether the Hub can be reached, asked once a minute and for seconds: its client would try for half a minute."""
    return not constants.HF_HUB_OFFLINE and _asked(int(time.monotonic() // 60))


@functools.lru_cache(maxsize=1)
def _asked(minute: int) -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of whichever client the Hub's package uses
        return False
    return True


@contextmanager
def _asking_nobody() -> Iterator[None]:
    """Where transformers would ask on the terminal whether code may run, it raises `ValueError` instead.

    `trust_remote_code=False` is not handed on everywhere: some of its loaders call others without it.
    """
    seconds = remote_code.TIME_OUT_REMOTE_CODE
    remote_code.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        remote_code.TIME_OUT_REMOTE_CODE = seconds


@contextmanager
def _limited_modules() -> Iterator[None]:
    """Raise `ValueError` where more modules are built than any model has."""
    count = 0

    def one_more(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > MOST_MODULES:
            raise ValueError(f"it would have more than {MOST_MODULES} modules")

    hook = register_module_module_registration_hook(one_more)
    try:
        yield
    finally:
        hook.remove()
