"""The tree of options: composed values in, one checked `Config` out, or every mistake at once.

Nothing here loads torch, so a typo is answered at once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from types import NoneType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from encdec_lightning.cluster.options import Slurm
from encdec_lightning.composition.options import OF_SCORES, Composition
from encdec_lightning.data.options import Extraction, Loading, Task
from encdec_lightning.errors import FINITE, UserError, UserErrors, did_you_mean, is_finite, one_of, require
from encdec_lightning.files import is_file_name
from encdec_lightning.generation.options import Generation
from encdec_lightning.hparams_search.options import Search
from encdec_lightning.training.options import Training

Node = dict[str, Any]
NOT_GIVEN = "???"  # OmegaConf's sign for a value that must be given
OPEN_SLOTS = ("trainer", "optimizer", "callbacks", "logger")
NO_TEXT = "it must be a text in UTF-8 without zero bytes"
GIVE = "a value must be given"
KINDS = {
    int: "a whole number",
    list[int]: "a list of whole numbers",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
}
WORDS = {
    "dataclass_type": "it must be a mapping of options",
    "dict_type": "it must be a mapping of options",
    "list_type": "it must be a list, such as [a,b]",
    "string_type": "it must be a text",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "bool_type": "it must be true or false",
    "float_type": "it must be a number",
}
"""What is said for pydantic's kinds of mistakes."""
NOT_OF_THE_RESULT = ("name", "folder", "logger", "export", "checkpoint_minutes", "slurm", "search")
NOT_KEPT = ("slurm", "search")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. The first fields are the run's own, then a node for each room, then the open slots."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    name: str = "run"
    """Name of the experiment: part of the default folder, and the run's name in loggers."""
    folder: str | None = None
    """The run's folder; null: `runs/<name>/<time>`, in a sweep `runs/<name>/<identity>`."""
    seed: int = 0
    """Seed of initialization, dropout and the order of examples (added to `data.seed`)."""
    validate_every: int | None = None
    """Validate after so many optimizer steps; null: at the end of each epoch."""
    checkpoint_minutes: float | None = 5.0
    """Save `last.ckpt` when the last checkpoint is so many minutes old, beside every validation's; null: do not."""
    checkpoint: str = "best"
    """The checkpoint that is tested and exported: best, last, or a path."""
    init_from: str | None = None
    """Start from the weights of another run: its folder."""
    export: bool | Literal["t5gemma"] = True
    """Write `model/`, which stock transformers opens; t5gemma: as a T5Gemma, where the model has the shape of one (two
    gemma2, cross-attention between the parts of every layer)."""
    model: Composition
    """The composed model."""
    task: Task
    """What is learned."""
    data: Loading = field(default_factory=Loading)
    """How it reaches the model."""
    generation: Generation = field(default_factory=Generation)
    """How texts are generated."""
    extraction: Extraction = field(default_factory=Extraction)
    """How an extract is made, where there is no decoder."""
    training: Training = field(default_factory=Training)
    """What a step does."""
    slurm: Slurm = field(default_factory=Slurm)
    """The job of `hydra/launcher=slurm`; no run keeps it."""
    search: Search = field(default_factory=Search)
    """How `hparams_search=optuna` chooses points; no run keeps it."""
    trainer: Node = field(default_factory=lambda: {"_target_": "lightning.Trainer"})
    """Open slot: Lightning's Trainer with any of its arguments."""
    optimizer: Node = field(default_factory=lambda: {"_target_": "torch.optim.AdamW", "fused": True})
    """Open slot: a torch optimizer with any of its arguments but rate and decay."""
    callbacks: dict[str, Node | None] = field(default_factory=dict)
    """Open slots: Lightning callbacks by a name of your own; null removes one."""
    logger: dict[str, Node | None] = field(default_factory=dict)
    """Open slots: Lightning loggers by a name of your own."""

    def __post_init__(self) -> None:
        every, minutes = self.validate_every, self.checkpoint_minutes
        require(
            ("name", self.name, is_file_name(self.name), "it must be a name that a folder can have, without a slash"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "it must lie in [0, 2^32)"),
            ("validate_every", every, every is None or every >= 1, "it must be at least 1"),
            ("checkpoint_minutes", minutes, minutes is None or minutes > 0, "it must be above 0, or null for never"),
            *(
                (name, value, value != "", "it must not be empty")
                for name in ("folder", "init_from", "checkpoint")
                for value in [getattr(self, name)]
            ),
            *_sound(vars(self)),
        )

    @property
    def loading(self) -> Loading:
        """The loading options with the run's seed in the order of the examples."""
        return replace(self.data, seed=self.data.seed + self.seed)

    def frozen(self) -> Node:
        """The plain values that a run keeps: not its job's, which may be another one next time, nor a search's."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_KEPT}

    def of_the_result(self) -> Node:
        """The plain values of all that changes the results."""
        unused = "generation" if self.model.scores_sentences else "extraction"
        kept = {name: value for name, value in asdict(self).items() if name not in (*NOT_OF_THE_RESULT, unused)}
        del kept["data"]["cache"], kept["data"]["workers"]
        if not self.model.scores_sentences:
            for name in OF_SCORES:
                del kept["model"][name]
        kept["trainer"] = {key: value for key, value in self.trainer.items() if not key.startswith(("enable_", "log_"))}
        return kept

    def identity(self) -> str:
        """A hash of all that changes the results: equal for two runs that would end equal."""
        return hashlib.sha256(json.dumps(self.of_the_result(), sort_keys=True).encode()).hexdigest()


def _sound(values: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, object, bool, str]]:
    """Rules for the numbers and texts of a run, those in open slots included; `require` looks at the numbers."""
    for name, value in values.items():
        option = f"{path}{name}"
        inner = vars(value) if is_dataclass(value) else dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, dict):
            yield from _sound(inner, f"{option}.")
        elif isinstance(inner, str):
            yield option, inner, not _is_broken(inner), NO_TEXT
        elif isinstance(inner, float | int):
            yield option, inner, True, ""


def defaults() -> Node:
    """The tree of default values, `???` where one must be given."""
    return _defaults(Config)


def validated(values: Node) -> tuple[Config | None, list[UserError]]:
    """The config of composed plain values, or what is wrong with single ones."""
    wrong = [UserError(path, value, FINITE) for path, value in _leaves(values) if not is_finite(value)]
    wrong += [UserError(path, value, NO_TEXT) for path, value in _leaves(values) if _is_broken(value)]
    if wrong:
        return None, wrong
    try:
        # JSON, because strict validation takes a JSON list for any sequence but a Python list for a list only.
        return _adapter().validate_json(json.dumps(_with_names(values), default=str), strict=True), []
    except ValidationError as error:
        return None, _problems_of(error, values)


def _is_broken(value: object) -> bool:
    """Whether a value is a text that no file can hold, or no path."""
    return isinstance(value, str) and re.search("[\0\ud800-\udfff]", value) is not None


def _with_names(value: Any) -> Any:
    """Plain values whose mappings have texts as keys: YAML also has dates and numbers there."""
    if isinstance(value, dict):
        return {str(key): _with_names(each) for key, each in value.items()}
    return [_with_names(each) for each in value] if isinstance(value, list | tuple) else value


def not_given(path: str) -> UserError:
    """The mistake of leaving an option without a value."""
    return UserError(path, None, GIVE)


def unknown_option(path: str, value: object) -> UserError | None:
    """The mistake of setting an option that no node has, or None. Any argument may be set in an open slot."""
    at: Any = Config
    names = path.split(".")
    for depth, name in enumerate(names):
        if depth == 1 and names[0] in OPEN_SLOTS:
            return None
        known = {each.name for each in fields(at)} if is_dataclass(at) else set()
        if name not in known:
            within = f" in {'.'.join(names[:depth])}" if depth else ""
            return UserError(path, value, f"there is no such option{within}{did_you_mean(name, sorted(known))}")
        at = get_type_hints(at)[name]
    return None


def kind_of(path: str) -> Any:
    """The type of an option; None where there is no such option, or any may be set."""
    at: Any = Config
    for name in path.split("."):
        at = get_type_hints(at).get(name) if is_dataclass(at) else None
    return at


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in nested mappings and lists."""
    if not isinstance(values, dict | list):
        yield path, values
        return
    for name, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield from _leaves(value, f"{path}.{name}" if path else str(name))


@functools.cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def _defaults(node: Any) -> Node:
    values: Node = {}
    hints = get_type_hints(node)
    for each in fields(node):
        if is_dataclass(hints[each.name]):
            values[each.name] = _defaults(hints[each.name])
        elif each.default is not MISSING:
            values[each.name] = each.default
        else:
            values[each.name] = NOT_GIVEN if each.default_factory is MISSING else each.default_factory()
    return values


def _problems_of(error: ValidationError, values: Node) -> list[UserError]:
    """Pydantic's findings as our sentences."""
    found: list[UserError] = []
    for each in error.errors():
        path, kinds = _option(each["loc"])
        name = ".".join(map(str, path))
        value = each["input"]
        if kinds:  # pydantic complains once for each
            if not any(problem.field == name for problem in found):
                expected = " or ".join(KINDS.get(kind) or ", ".join(map(str, get_args(kind))) for kind in kinds)
                found.append(UserError(name, _at(values, path), f"it must be {expected}"))
            continue
        inner = each.get("ctx", {}).get("error")
        if isinstance(inner, UserErrors):
            found += [problem.inside(name) for problem in inner.problems]
        elif each["type"] == "missing":
            found.append(not_given(name))
        elif each["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            found.append(unknown_option(name, value) or UserError(name, value, "there is no such option"))
        elif each["type"] == "literal_error":
            choices = _choices(path)
            hint = did_you_mean(str(value), choices)
            found.append(UserError(name, value, f"{one_of(choices)}{hint}"))
        elif not any(problem.field == name for problem in found):
            expected = WORDS.get(each["type"]) or each["msg"].replace("Input should be", "it must be")
            if each["type"] == "string_type" and isinstance(value, int | float):
                expected += ", which a preset has in quotes"
            found.append(UserError(name, value, expected))
    return found


def _option(location: tuple[int | str, ...]) -> tuple[list[int | str], tuple[Any, ...]]:
    """Pydantic's place of a mistake as the path of an option, and the option's kinds where there are several."""
    at: Any = Config
    for depth, name in enumerate(location):
        at = get_type_hints(at).get(str(name)) if is_dataclass(at) else None
        kinds = () if at is None else get_args(at)
        if sum(kind is not NoneType for kind in kinds) > 1 and all(
            kind in KINDS or get_origin(kind) is Literal for kind in kinds
        ):
            return list(location[: depth + 1]), kinds
    kept = [part for part in location if isinstance(part, int) or not part.startswith(("dict[", "list["))]
    inside = len(kept) > 1 and isinstance(kept[-2], int) and kept[-1] == "str"  # a kind of what a list may hold
    return kept[:-1] if inside else kept, ()


def _at(values: Any, path: list[int | str]) -> object:
    for name in path:
        values = values[name]
    return values


def _choices(path: list[int | str]) -> list[str]:
    at: Any = Config
    for name in path:
        at = get_type_hints(at)[str(name)]
    choices = [choice for kind in get_args(at) for choice in get_args(kind) or [kind] if kind is not NoneType]
    return [str(choice) for choice in choices]
