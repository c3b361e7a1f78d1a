"""`ComposedModel`: what every composed model answers, so that nobody has to ask which kind of model it is."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from encdec_lightning.composition.architectures import architecture_of, packs
from encdec_lightning.composition.labels import decoder_inputs
from encdec_lightning.composition.options import Composition, Role
from encdec_lightning.composition.sharing import Shared
from encdec_lightning.errors import UserError


class ComposedModel(PreTrainedModel):  # type: ignore[misc]
    """The base of `EncoderDecoder`, `PrefixDecoder` and `SentenceScorer`.

    Each side is an attribute named after its role.
    """

    roles: ClassVar[tuple[Role, ...]]
    """The roles that the class has a side for."""
    shared: Shared
    """{name of a parameter: name of the encoder's that is the same object}."""

    @property
    def composition(self) -> Composition:
        """How this model was built."""
        return Composition(**self.config.composition)

    @property
    def sides(self) -> dict[Role, PreTrainedModel]:
        """The models of the sides: the encoder's and the decoder's, as far as there are."""
        return {role: getattr(self, role) for role in self.roles}

    @property
    def reads_prefix(self) -> bool:
        """Whether there is no encoder, so that the decoder reads the source as a prefix."""
        return "encoder" not in self.roles

    @property
    def scores_sentences(self) -> bool:
        """Whether there is no decoder, so that an extract is made of the source's sentences."""
        return "decoder" not in self.roles

    @property
    def width(self) -> int:
        """How many numbers a state of the last side is."""
        return int(self.sides[self.roles[-1]].config.hidden_size)

    @property
    def source_config(self) -> PretrainedConfig:
        """The config of the side that reads the source's tokens."""
        return getattr(self.config, self.roles[0])

    @property
    def source_pad_id(self) -> int:
        """The token that sources are padded with; 0 where the config names none, as -1 of older llamas does."""
        return max(0, int(getattr(self.source_config, "pad_token_id", None) or 0))

    @property
    def packs(self) -> bool:
        """Whether examples can lie side by side in one row, as far as the families go."""
        return not self.reads_prefix and all(packs(side.config) for side in self.sides.values())

    @property
    def mixes_dtypes(self) -> bool:
        """Whether a family brings fp32 into a model of another dtype, so that only autocast runs it."""
        return any(architecture_of(side.config).mixes_dtypes for side in self.sides.values())

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads (B, T) for labels (B, T); `DataCollatorForSeq2Seq` asks for it."""
        return decoder_inputs(labels, self.config)


def check_composed(model: object) -> None:
    """Raise `UserError` for a model of another class, such as a stock `EncoderDecoderModel`."""
    if not isinstance(model, ComposedModel):
        expected = (
            "it must be a composed model: `compose` makes one, and `EncoderDecoder.from_pretrained` opens a folder"
        )
        raise UserError("model", type(model).__name__, expected)
