"""How many parameters a composed model has and where they start, as built and by the paper's rule of counting."""

from __future__ import annotations

from dataclasses import dataclass

from encdec_lightning.composition.architectures import architecture_of, has_head
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.lora import is_factor
from encdec_lightning.composition.options import Role, Side
from encdec_lightning.composition.sides.config import checkpoint_config, stored_config
from encdec_lightning.composition.sides.cross_attention import is_cross_attention, joins_sides, self_attention_of
from encdec_lightning.composition.sides.names import base_prefix, computed
from encdec_lightning.composition.sides.origins import origins


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters, each shared one counted once."""

    total: int
    embedding: int
    """In embedding blocks, both sides': words, positions, types, their layer norm."""
    pretrained: int
    """Start as a checkpoint has them, or are computed."""
    random: int
    """Start at random."""
    shared: int
    """Belong to both sides."""
    encoder: int
    """The encoder has, shared ones included."""
    decoder: int
    """The decoder has, shared ones included."""
    cross_attention: int
    """In cross-attention, and in the projection of the encoder's states to the decoder's width."""


@dataclass(frozen=True)
class ParameterTable:
    """The counts of a composed model as it is built, and by the paper's rule.

    By the paper's rule (Rothe et al., table 1) the softmax is the word embeddings and nothing else: no transform before
    it, no output bias. `head` says what that leaves out.
    """

    as_built: Counts
    by_the_paper: Counts
    head: int


@dataclass(frozen=True)
class Trained:
    """Numbers of parameters that a fit changes."""

    total: int
    lora: int
    """Of these, LoRA's, which the tested and exported model has in its weights."""


def count_trained(model: ComposedModel) -> Trained:
    """Count what is trained of a model that is ready for a fit; it may be on the meta device."""
    sizes = {name: each.numel() for name, each in model.named_parameters() if each.requires_grad}
    return Trained(sum(sizes.values()), sum(size for name, size in sizes.items() if is_factor(name)))


def count_parameters(model: ComposedModel) -> ParameterTable:
    """Count a composed model, which may be on the meta device; its config says what is fresh.

    LoRA's factors do not count: the model that a run is tested with, and exports, has none.
    """
    sides = {side.role: side for side in model.composition.sides}
    head: set[int] = set()
    if not model.scores_sentences:
        base = {id(each) for each in model.decoder.get_submodule(model.decoder.base_model_prefix).parameters()}
        head = {id(each) for each in model.decoder.parameters()} - base
    everything = {id(each): each.numel() for name, each in model.named_parameters() if not is_factor(name)}
    as_built = _counts(model, everything, sides)
    by_the_paper = _counts(model, {key: everything[key] for key in everything.keys() - head}, sides)
    return ParameterTable(as_built, by_the_paper, as_built.total - by_the_paper.total)


def copies(model: ComposedModel) -> dict[str, str]:
    """Parameters that start as a copy of another: each name -> the other's, a shared one under its source's name."""
    found: dict[str, str] = {}
    if model.composition.decoder_embeddings_init == "encoder":
        words = [side.get_input_embeddings().weight for side in (model, model.decoder)]
        names = {id(each): name for name, each in model.named_parameters()}
        found[names[id(words[1])]] = names[id(words[0])]
    if model.composition.cross_attention_init == "self_attention":
        pairs = (self_attention_of(model.decoder) or {}).items()
        found |= {f"decoder.{name}": model.shared.get(f"decoder.{own}", f"decoder.{own}") for name, own in pairs}
    return found


def expected_fresh(model: ComposedModel) -> list[str]:
    """Names of the parameters that will start at random, as configs tell; a shared one under its source's name.

    A head, and cross-attention, start as the checkpoint has them if its config names a class that has one.
    """
    loaded = _loaded(model, {side.role: side for side in model.composition.sides})
    return [name for name, each in model.named_parameters() if id(each) not in loaded]


def _counts(model: ComposedModel, sizes: dict[int, int], sides: dict[Role, Side]) -> Counts:
    """Count the parameters of `sizes`, which is {id: number of elements}."""
    of_side = {role: {id(each) for each in part.parameters()} for role, part in model.sides.items()}
    fresh = {id(model.get_parameter(name)) for name in model.config.fresh_parameters}
    shared = {id(model.get_parameter(source)) for source in model.shared.values()}
    blocks: set[int] = set()
    for role, side in sides.items():
        part = model.sides[role]
        start = tuple(f"{base_prefix(side, part)}{block}" for block in architecture_of(part.config).embeddings)
        blocks |= {id(each) for name, each in part.named_parameters() if name.startswith(start)}

    def number(kept: set[int]) -> int:
        return sum(size for key, size in sizes.items() if key in kept)

    return Counts(
        total=sum(sizes.values()),
        embedding=number(blocks),
        pretrained=sum(sizes.values()) - number(fresh),
        random=number(fresh),
        shared=number(shared),
        encoder=number(of_side.get("encoder", set())),
        decoder=number(of_side.get("decoder", set())),
        cross_attention=number({id(each) for name, each in model.named_parameters() if joins_sides(name)}),
    )


def _loaded(model: ComposedModel, sides: dict[Role, Side]) -> set[int]:
    """Ids of the parameters that start as some checkpoint has them; a shared one when either side's has it."""
    found: set[str] = set()
    for role, side in sides.items():
        part = model.sides[role]
        config, base = checkpoint_config(side), base_prefix(side, part)
        architecture = architecture_of(stored_config(side))  # without what is added
        for name in origins(side, part):
            lacks_head = not name.startswith(base) and not has_head(config)
            lacks_cross_attention = is_cross_attention(name) and not architecture.cross_attention
            if not lacks_head and not lacks_cross_attention:
                found.add(f"{role}.{name}")
        found |= {f"{role}.{name}" for name in computed(side, part)}
    found |= {source for target, source in model.shared.items() if target in found}
    found |= {name for name, own in copies(model).items() if own in found}
    return {id(model.get_parameter(name)) for name in found}
