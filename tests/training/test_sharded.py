"""Two real processes train what one does: DDP and FSDP2, whatever the sides share, with other tokens on each rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from on_ranks import WEIGHTS, Case, fit, make_adapted, on_ranks
from tiny import Files
from transformers import EncoderDecoderModel

from encdec_lightning import Seq2SeqModule
from encdec_lightning.errors import UserError
from encdec_lightning.training.checkpoint import checkpoint_damage

pytestmark = pytest.mark.early
STRATEGIES = ("ddp", "fsdp2")
EXACT = [Case(strategy, weights) for strategy in STRATEGIES for weights in WEIGHTS]
EXACT += [Case(strategy, rank=4) for strategy in STRATEGIES]  # LoRA
IN_FP32 = [Case(strategy, weights, "32-true", steps=1, scores=False) for strategy in STRATEGIES for weights in WEIGHTS]
LEARNED = [Case("ddp", steps=24, rate=2e-2)]
LEARNED_IN_PIECES = [Case("fsdp2", steps=24, rate=2e-2)]
REARRANGED = [Case(strategy, checkpointed=True, scores=False) for strategy in STRATEGIES]
COMPILED = [Case("ddp", compiled=True, scores=False), Case("fsdp2", checkpointed=True, compiled=True, scores=False)]
STARTS = {strategy: Case(strategy) for strategy in ("auto", *STRATEGIES, "fsdp2_in_pieces")}
CONTINUED = [
    Case(strategy, steps=5, resume=start.file, scores=False)
    for strategy in STARTS
    for start in STARTS.values()
    if (start.strategy, strategy) not in [("auto", "auto"), ("ddp", "ddp")] and strategy != "fsdp2_in_pieces"
]
ALONE = "all_but_cross_attention"
GATED = Case("fsdp2", "untied", pair="gate")
ADAPTED = [
    GATED,
    Case("fsdp2", "untied", steps=5, resume=GATED.file, pair="gate"),
    Case("fsdp2", "untied", checkpointed=True, pair="tied"),
    Case("fsdp2", "untied", freeze=ALONE, pair="merged"),
    Case("ddp", "untied", checkpointed=True, freeze=ALONE, pair="after"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the checkpoints of all fits are."""
    made: Path = tmp_path_factory.mktemp("ranks")
    make_adapted(made)
    return made


@pytest.fixture(scope="module")
def alone(files: Files, folder: Path) -> Callable[..., dict[str, Any]]:
    """What one process finds in a case, computed once."""
    found: dict[Case, dict[str, Any]] = {}

    def of(case: Case) -> dict[str, Any]:
        if case not in found:
            found[case] = fit(files, case, folder)
        return found[case]

    return of


@pytest.fixture(scope="module")
def ranks(files: Files, folder: Path, alone) -> dict[Case, dict[str, Any]]:
    """What two ranks find in every case, by one pair of processes."""
    alone(STARTS["auto"])
    cases = [
        *EXACT,
        *IN_FP32,
        *LEARNED,
        *REARRANGED,
        *ADAPTED,
        STARTS["fsdp2_in_pieces"],
        *(each for each in CONTINUED if each.strategy != "auto"),
    ]
    return dict(zip(cases, on_ranks(files, cases, folder), strict=True))


@pytest.mark.parametrize("case", EXACT, ids=lambda case: f"{case.strategy}-{case.weights}-{case.rank}")
def test_in_float64_two_ranks_end_with_the_weights_of_one(case, ranks, alone):
    found, expected = ranks[case], alone(replace(case, strategy="auto"))
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-10, msg=name)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-10)
    assert "train/loss" in found["validated"]
    assert found["validated"] == pytest.approx(expected["validated"], rel=1e-6)
    assert found["texts"] == expected["texts"]
    assert found["tested"] == expected["tested"]


@pytest.mark.slow
def test_a_rank_may_hold_nothing_of_a_weight(files, tmp_path, alone):
    """Three ranks share out the two rows of the embeddings of segments."""
    case = STARTS["fsdp2_in_pieces"]
    started, resumed = on_ranks(
        files, [case, Case("fsdp2", steps=5, resume=case.file, scores=False)], tmp_path, count=3
    )
    for found, expected in ((started, alone(STARTS["auto"])), (resumed, alone(Case(steps=5, scores=False)))):
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("case", IN_FP32, ids=lambda case: f"{case.strategy}-{case.weights}")
def test_in_fp32_the_first_step_is_that_of_one(case, ranks, alone):
    found, expected = ranks[case], alone(replace(case, strategy="auto"))
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["gradients"].keys() == expected["gradients"].keys()
    difference = sum(
        float((found["gradients"][name] - each).double().square().sum()) for name, each in expected["gradients"].items()
    )
    norm = sum(float(each.double().square().sum()) for each in expected["gradients"].values())
    assert difference**0.5 <= 1e-6 * norm**0.5


@pytest.mark.parametrize("case", LEARNED, ids=lambda case: case.strategy)
def test_texts_and_scores_are_those_of_one(case, ranks, alone):
    same_texts_and_scores(ranks[case], alone(replace(case, strategy="auto")))


@pytest.mark.slow
def test_texts_and_scores_of_a_sharded_model_are_those_of_one(files, tmp_path, alone):
    (found,) = on_ranks(files, LEARNED_IN_PIECES, tmp_path)
    same_texts_and_scores(found, alone(replace(LEARNED_IN_PIECES[0], strategy="auto")))


def same_texts_and_scores(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Of 12 test pairs and, in validation, of 5: one rank has more of them than the other."""
    assert found["tested"] == expected["tested"] and found["tested"]["rouge1"] > 20
    assert found["texts"] == expected["texts"]
    assert len({each["prediction"] for each in found["texts"]}) > 2
    assert len({each["id"] for each in found["texts"]}) == len(found["texts"]) == 12
    for name in ("val/rouge1", "val/rougeL", "val/loss"):
        assert found["validated"][name] == pytest.approx(expected["validated"][name], rel=1e-6)


@pytest.mark.parametrize("case", REARRANGED, ids=lambda case: case.strategy)
def test_activations_computed_again_change_nothing(case, ranks, alone):
    for name, weight in alone(Case())["weights"].items():
        torch.testing.assert_close(ranks[case]["weights"][name], weight, rtol=0, atol=1e-10, msg=name)


@pytest.mark.slow
def test_compiled_layers_change_nothing(files, tmp_path, alone):
    for found in on_ranks(files, COMPILED, tmp_path):
        assert found["graphs"] > 0
        for name, weight in alone(Case())["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("case", ADAPTED, ids=lambda case: f"{case.strategy}-{case.pair}-{case.steps}")
def test_a_language_model_with_cross_attention_trains_on_two_ranks_as_on_one(case, ranks, alone):
    """A gate is one number, of which one rank has nothing."""
    found, expected = ranks[case], alone(replace(case, strategy="auto", checkpointed=False, resume=None))
    assert found["gradients"].keys() == (
        expected["weights"].keys() if case.freeze is None else expected["gradients"].keys()
    )
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-10, msg=name)
    gates = [weight for name, weight in found["weights"].items() if name.endswith(".gate")]
    assert bool(gates) == (case.pair in ("gate", "after")) and all(float(gate.abs()) > 1e-4 for gate in gates)
    assert found["texts"] == expected["texts"] and found["tested"] == expected["tested"]


def test_a_gate_is_whole_in_a_checkpoint_of_its_parts(ranks, folder):
    module = Seq2SeqModule.load_from_checkpoint(folder / GATED.file)
    for name, weight in module.model.named_parameters():
        torch.testing.assert_close(weight, ranks[GATED]["weights"][name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("case", CONTINUED, ids=lambda case: f"{case.resume.partition('-')[0]}-{case.strategy}")
def test_any_checkpoint_goes_on_under_any_strategy_to_the_same_weights(case, ranks, alone):
    found = alone(case) if case.strategy == "auto" else ranks[case]
    for name, weight in alone(Case(steps=5, scores=False))["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("strategy", STARTS)
def test_any_checkpoint_is_loaded_and_exported(strategy, ranks, alone, folder, tmp_path):
    module = Seq2SeqModule.load_from_checkpoint(folder / STARTS[strategy].file)
    expected = alone(STARTS["auto"])["weights"]
    own = dict(module.model.named_parameters())
    assert own.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=1e-10, msg=name)
    module.export(tmp_path)
    exported = EncoderDecoderModel.from_pretrained(tmp_path, dtype=torch.float64).state_dict()
    assert all(torch.equal(exported[name], value) for name, value in module.model.state_dict().items())


def test_pieces_that_nobody_needs_are_gone_and_a_lost_one_is_named(ranks, folder):
    path = folder / STARTS["fsdp2_in_pieces"].file
    (pieces,) = (folder / "pieces").iterdir()
    assert sorted(each.name for each in pieces.iterdir()) == ["0.pt", "1.pt"]
    assert checkpoint_damage(path) is None
    lost = (pieces / "1.pt").rename(folder / "lost")
    assert checkpoint_damage(path) == f"its piece {pieces.name}/1.pt: there is no such file"
    with pytest.raises(UserError, match="there is no such file"):
        Seq2SeqModule.load_from_checkpoint(path)
    lost.rename(pieces / "1.pt")
