"""Language models with a window of attention, alone: what else is in a batch changes nothing for a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import searches
import tiny
import torch
from transformers import AutoModelForCausalLM

from encdec_lightning.composition.architectures import attention_window
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.generation.generate import streamer
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.support import obstacle
from encdec_lightning.kernels.attention_interface import use_attention

ALL_LAYERS: dict[str, object] = {
    "use_sliding_window": True,
    "layer_types": ["sliding_attention"] * tiny.LAYERS,
}
WINDOWED: dict[str, dict[str, object]] = {
    **{family: {} for family in ("gemma2", "gemma3_text", "mistral", "modernbert-decoder")},
    "qwen2": ALL_LAYERS,
    "smollm3": ALL_LAYERS,
}
every_family = pytest.mark.parametrize("family", WINDOWED)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], str]:
    """(family, window) -> a checkpoint whose attention sees so many tokens."""

    def made(family: str, window: int) -> str:
        settings = {**tiny.PECULIAR.get(family, {}), **WINDOWED[family], "sliding_window": window}
        monkeypatch.setitem(tiny.PECULIAR, family, settings)
        return tiny.family_checkpoint(tmp_path / family, family)

    return made


@every_family
@pytest.mark.parametrize("own_attention", [False, True])
def test_logits_are_those_of_the_language_model_on_the_row_alone(folder, family, own_attention):
    checkpoint = folder(family, 8)
    model, plain = compose(None, checkpoint).eval(), AutoModelForCausalLM.from_pretrained(checkpoint)
    assert attention_window(model.config.decoder) == 8
    if own_attention:  # as a training has it
        use_attention(model)
    lengths = [6, 30]
    ids, targets = torch.randint(5, 200, (2, 30)), torch.randint(5, 200, (2, 7))
    mask = (torch.arange(30) < torch.tensor(lengths)[:, None]).long()
    found = model(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
    found[0].square().sum().backward()
    for row, length in enumerate(lengths):
        alone = plain(torch.cat([ids[row, :length], targets[row]])[None]).logits[0, length:]
        assert (found[row] - alone).abs().max() < 1e-4
        if row == 0:
            alone.square().sum().backward()
    for name, parameter in plain.named_parameters():
        own = model.decoder.get_parameter(name).grad
        assert (own - parameter.grad).norm() < 1e-3 * parameter.grad.norm(), name


@every_family
@pytest.mark.filterwarnings("ignore:transformers. own generate runs")
@pytest.mark.parametrize("window", [8, 60])
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_of_a_source_are_the_same_alone_and_beside_a_longer_one(folder, family, window, beams):
    """With a window of 60 the engine writes them, with one of 8 transformers' own `generate`."""
    checkpoint = folder(family, window)
    model = searches.sharpen(compose(None, checkpoint, tokenizers=Tokenizers.from_pretrained(checkpoint)).eval())
    assert (obstacle(model, 42) is None) == (window == 60)
    options = Generation(num_beams=beams, max_length=12, min_length=12)
    sources = list(enumerate(searches.sources([30, 6, 11])))

    def texts(group: list[tuple[int, torch.Tensor]]) -> dict[int, object]:
        found = dict(streamer(model, options, longest_source=30)(group))
        return {key: (each[0].tokens, pytest.approx(each[0].score, abs=1e-3)) for key, each in found.items()}

    together = texts(sources)
    for source in sources:
        assert texts([source]) == {source[0]: together[source[0]]}
