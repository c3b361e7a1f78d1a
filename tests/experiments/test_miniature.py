"""The recipe of the miniature checkpoints: no evaluation text, the same vocabulary everywhere, masks, probabilities."""

from __future__ import annotations

import itertools
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from encdec_lightning.evaluation.metric import score as score_all
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.records import Prediction
from encdec_lightning.run import Run

FOLDER = Path(__file__).parents[2] / "experiments" / "miniature"
TEXTS = [
    "Größe und Maß, the quick brown fox",
    "the quick fox reads a database (SQL)",
    "Maß the fox, a lazy database",
] * 3


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def test_a_text_with_eight_words_of_an_evaluation_text_is_left_out():
    from text import without

    evaluation = ["One two three four five six seven eight nine", "short text"]
    shared = "and so: ONE two, three four five six seven eight!"
    seven = "two three four five six seven eight zero"
    assert list(without([shared, seven, "Short text.", "short text more"], evaluation)) == [seven, "short text more"]


def test_a_wordpiece_vocabulary_is_the_same_in_every_process():
    from vocabularies import BERT_TOKENS, wordpiece

    tokenizer = wordpiece(TEXTS, size=120)
    words = tokenizer.get_vocab()
    assert [tokenizer.convert_ids_to_tokens(number) for number in range(5)] == list(BERT_TOKENS)
    assert {"##e", "##ß", "M"} <= set(words) and len(words) <= 120
    assert tokenizer.unk_token_id not in tokenizer(TEXTS[0])["input_ids"]
    assert tokenizer.decode(tokenizer("Größe Maß fox")["input_ids"], skip_special_tokens=True) == "Größe Maß fox"
    script = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); from vocabularies import wordpiece; "
    script += f"print(sorted(wordpiece({TEXTS!r}, size=120).get_vocab().items()))"
    for _ in range(2):
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        assert told.strip() == str(sorted(words.items()))


def test_the_other_families_have_one_vocabulary():
    from vocabularies import tokenizer_of

    roberta, gpt2, llama = (tokenizer_of(name, TEXTS, 320) for name in ("roberta", "gpt2", "llama"))
    assert roberta.get_vocab() == gpt2.get_vocab() == llama.get_vocab()
    assert roberta("the fox")["input_ids"][1:-1] == gpt2("the fox")["input_ids"]
    assert gpt2.decode(gpt2("Größe 日本")["input_ids"]) == "Größe 日本"


def test_masks_are_the_same_in_each_pass_or_new_ones():
    from pretrain import masked
    from small_models import FAMILIES
    from vocabularies import tokenizer_of

    for name, dynamic in (("bert", False), ("roberta", True)):
        tokenizer = tokenizer_of(name, TEXTS, 320)
        batch = [[tokenizer.cls_token_id, *range(10, 110), tokenizer.sep_token_id], [2, 11, 12, 3]]
        inputs, mask, labels = masked(batch, 0, FAMILIES[name], tokenizer)
        guessed = labels != -100
        assert guessed[0].sum() == 30 and guessed[1].sum() == 1 and mask[1].sum() == 4
        assert not guessed[:, 0].any() and not guessed[0, -1] and not guessed[1, 3:].any()
        assert (inputs == tokenizer.mask_token_id).sum() >= 15
        again, later = (masked(batch, number, FAMILIES[name], tokenizer) for number in (0, 1))
        assert again[0].equal(inputs)
        assert later[2].equal(labels) is not dynamic


def test_a_language_model_guesses_the_next_token():
    from pretrain import causal

    class Padding:
        pad_token_id = 1

    inputs, mask, labels = causal([[5, 6, 7, 5], [5, 5]], Padding())
    assert labels.tolist() == [[6, 7, 5, -100], [5, -100, -100, -100]]
    assert inputs[1].tolist() == [5, 5, 1, 1] and mask[1].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_masked_model_can_guess_the_next_token_without_seeing_it(name: str):
    from pretrain import causal_mask, padded
    from small_models import FAMILIES, new_model
    from vocabularies import tokenizer_of

    tokenizer = tokenizer_of(name, TEXTS, 320)
    family, model = FAMILIES[name], new_model(name, tokenizer).eval()
    inputs, mask = padded([[*range(10, 22)], [*range(30, 36)]], tokenizer.pad_token_id)
    other = inputs.clone()
    other[:, 5] = 40
    first, second = (
        family.body(model)(each, attention_mask=causal_mask(mask)).last_hidden_state for each in (inputs, other)
    )
    assert first[:, :5].allclose(second[:, :5], atol=1e-6)
    assert not first[0, 5:].isclose(second[0, 5:]).all(-1).any()
    alone = family.body(model)(inputs[1:, :6], attention_mask=causal_mask(mask[1:, :6])).last_hidden_state
    assert alone.allclose(first[1:, :6], atol=1e-5)


def test_each_pass_reads_every_text_until_the_tokens_are_read():
    from pretrain import BATCH_TOKENS, batches

    examples = [[number] * (1 + number % 200) for number in range(300)]
    size = sum(map(len, examples))
    plan = batches(examples, size + 10, seed=1)
    assert plan == batches(examples, size + 10, seed=1)
    assert sorted(ids for number, batch in plan if number == 0 for ids in batch) == sorted(examples)
    assert {number for number, _ in plan} == {0, 1} and sum(number == 1 for number, _ in plan) == 1
    assert all(sum(map(len, batch)) <= BATCH_TOKENS for _, batch in plan)


def test_ngram_probabilities_sum_to_one():
    """A perplexity over every continuation of one context gives back their probabilities."""
    from ngrams import ngram_perplexities

    training = [[0, 1, 2, 1, 2, 3, 0], [0, 1, 3, 3, 0], [0, 2, 1, 2, 0]]
    for name in ("unigram", "3gram"):
        # the words seen are 0 to 3; another one has what is left
        one = [1 / ngram_perplexities(training, [[1, 2, word]], ends=True)[name] ** 2 for word in range(5)]
        first = math.prod([1 / ngram_perplexities(training, [[1, 2]], ends=True)[name]])
        assert sum(one) / first == pytest.approx(1, abs=0.01)
    found = ngram_perplexities(training, [[0, 1, 2, 1, 2, 3, 0]], ends=True)
    assert found["3gram"] < found["unigram"]


def test_every_block_composes_at_its_first_and_last_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from run import BLOCKS, PRESETS, command, sweeps

    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", str(tmp_path))
    for name in BLOCKS:
        options = command(name, tmp_path, *sweeps(name, None, []))[6:]
        axes = [key for key in options if re.search(r",(?![^\[]*\])", key)]
        points = [re.split(r",(?![^\[]*\])", axis.partition("=")[2]) for axis in axes]
        every = list(itertools.product(*points))
        for point in (every[0], every[-1]):
            chosen = {axis: f"{axis.partition('=')[0]}={value}" for axis, value in zip(axes, point, strict=True)}
            config = compose_config([chosen.get(each, each) for each in options], [PRESETS])
            assert config.task.train == str(tmp_path / config.task.train.split("/")[-2] / "train.jsonl.gz")
            steps = 200 if name.startswith("tune") else 600
            assert config.model.decoder and (config.trainer["max_steps"], config.generation.num_beams) == (steps, 4)


def test_points_that_are_kept_are_not_run_again():
    from run import sweeps

    rows = [{"variant": variant, "train_share": "0.1", "seed": "1"} for variant in ("rnd2rnd", "bert2rnd")]
    found = sweeps("less-data", 2, rows)
    points = [dict(zip(axes, values, strict=True)) for axes in found for values in itertools.product(*axes.values())]
    assert len(points) == 3 * 2 * 2 - 2 == len({tuple(each.values()) for each in points})
    kept = [
        {"variant": each["variant"], "task.train_share": each["train_share"], "seed": each["seed"]} for each in rows
    ]
    assert not [each for each in points if each in kept]
    assert [len(axes["seed"]) for axes in found] == [1] * 4 and found[0]["seed"] == ["1"]
    assert sweeps("new-vocabulary", 2, [{"seed": "1"}]) == [{"seed": ["2"]}]
    assert sweeps("depth", 1, [{"encoder_layers": "2", "seed": "1"}]) == [
        {"model.encoder_layers": ["[2,4]"], "seed": ["1"]}
    ]
    assert sweeps("new-vocabulary", 1, [{"seed": "1"}]) == []


def finished_run(folder: Path, variant: str, seed: int, quality: float, noise: float = 0.2) -> None:
    """A run's folder with predictions that have so much of each reference right."""
    drawn = random.Random(f"{variant} {seed}")
    run = Run.create(folder, {"task": {"metrics": ["sari"]}, "seed": seed}, f"{variant}-{seed}")
    lines = []
    for number in range(200):
        words = [f"w{number * 7 + each}" for each in range(10)]
        own = [word if drawn.random() < quality + drawn.uniform(-noise, noise) else "other" for word in words]
        lines.append(Prediction(str(number), "", " ".join(words), " ".join(own)))
    run.write_predictions(lines)
    told = {name: score.value for name, score in score_all(lines, load_metric("sari")).items()}
    run.write_metrics({
        "test/sari": told["sari"], "test/sari/signature": "s", "best/val/loss": 2.5, "data/test_fingerprint": "same",
        "train/precision": "bf16-mixed", "train/seconds": 12.34, "parameters": 7,
    })  # fmt: skip
    run.note(point=f"variant={variant}, seed={seed}")
    run.set_state("finished")


def test_what_is_kept_of_a_block_is_enough_to_test_its_claims(tmp_path: Path):
    """A clear difference holds, its contrary too, and a difference of seeds is too small to tell."""
    from findings import Claim, found, table
    from results import keep, read

    qualities = {"bert2rnd": 0.8, "rnd2rnd": 0.5, "rnd2bert": 0.5}
    for variant, quality in qualities.items():
        for seed in (1, 2):
            finished_run(tmp_path / "runs" / f"{variant}-{seed}", variant, seed, quality)
    Run(tmp_path / "runs" / "rnd2rnd-1").set_state("running")
    kept = keep("fusion", tmp_path / "runs", tmp_path / "results")
    assert len(kept) == 5
    Run(tmp_path / "runs" / "rnd2rnd-1").set_state("finished")
    (tmp_path / "runs" / "bert2rnd-1" / "checkpoints").mkdir()
    shutil.rmtree(tmp_path / "runs" / "bert2rnd-2")
    assert keep("fusion", tmp_path / "runs", tmp_path / "results", drop_weights=True)
    assert len(read("fusion", tmp_path / "results")) == 6
    assert not (tmp_path / "runs" / "bert2rnd-1" / "checkpoints").exists()

    def tested(more: str, less: str) -> Any:
        return found(Claim("c", "fusion", {"variant": more}, {"variant": less}), tmp_path / "results")

    told = [tested(*rows) for rows in (("bert2rnd", "rnd2rnd"), ("rnd2rnd", "bert2rnd"), ("rnd2rnd", "rnd2bert"))]
    scores = {
        (each.point["variant"], each.point["seed"]): each.scores["sari"]
        for each in read("fusion", tmp_path / "results")
    }
    for seed in "12":
        assert told[0].seeds[seed] == pytest.approx(scores["bert2rnd", seed] - scores["rnd2rnd", seed], abs=1e-3)
    assert told[0].value == pytest.approx(sum(told[0].seeds.values()) / 2, abs=1e-6)
    assert told[0].low < told[0].value < told[0].high
    verdicts = [line.split(" | ")[-1].rstrip(" |") for line in table(told).splitlines()[2:]]
    assert verdicts == ["holds", "the contrary holds", "too small to tell"]
    assert tested("bert2rnd", "gpt") is None


def test_a_claim_does_not_hold_where_one_seed_has_the_other_sign():
    from findings import Claim, Finding

    claim = Claim("c", "fusion", {}, {})
    assert Finding(claim, {"1": 2.0, "2": -0.1}, 0.95, 0.5, 1.4, 0.001).verdict(0.001) == "too small to tell"
    assert Finding(claim, {"1": 2.0}, 2.0, 0.5, 1.4, 0.001).verdict(0.001) == "one seed alone"


def test_every_claim_is_about_rows_that_a_block_has():
    from findings import claims
    from run import AXIS, BLOCKS

    for claim in claims():
        for block, point in ((claim.block, claim.more), (claim.other_block or claim.block, claim.less)):
            axes = {each.partition("=")[0].rpartition(".")[2]: each.partition("=")[2] for each in BLOCKS[block].axes}
            assert point.keys() == axes.keys(), claim.text
            assert all(value in AXIS.split(axes[name]) for name, value in point.items()), claim.text


def test_a_cell_is_trained_as_its_block_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    import reproduce
    from results import Result

    started: list[list[str]] = []

    class Ended:
        returncode = 7

    def run(line: list[str], check: bool) -> Ended:
        started.append(line)
        return Ended()

    kept = Result({"variant": "bertshare", "seed": "1"}, "a", {"rougeL": 20.0}, {}, ["rouge"], "t", "s", "p", "cpu")
    monkeypatch.setattr(reproduce, "read", lambda block: [kept])
    monkeypatch.setattr(reproduce.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["reproduce.py", "minilm", "variant=bertshare", "--data", str(tmp_path)])
    assert reproduce.main() == 7
    assert {"checkpoints=minilm", "model.dropout=0.0", "variant=bertshare", "seed=1"} <= set(started[0])
    assert "--multirun" not in started[0]


def test_a_cell_has_reproduced_inside_the_spread_of_its_seeds():
    from reproduce import expected, judged

    low, high = expected([20.0, 21.0, 22.0])
    assert (low + high) / 2 == 21 and high - 21 == pytest.approx(4.30 * (4 / 3) ** 0.5)
    assert judged(24.0, [20.0, 21.0, 22.0])[1] and not judged(26.0, [20.0, 21.0, 22.0])[1]
    assert "two other seeds are needed" in judged(26.0, [20.0])[0]
    assert expected([20.0] * 9 + [21.0])


def test_a_cell_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import reproduce

    monkeypatch.setattr("sys.argv", ["reproduce.py", "parts", "variant=nothing", "--data", str(tmp_path)])
    assert reproduce.main() == 2
    assert (
        "parts has no cell 'variant=nothing': give one value of each of its axes (variant=bertshare,bert2bert;"
        in capsys.readouterr().err
    )


def test_the_tables_have_the_papers_order_and_means_over_seeds(monkeypatch: pytest.MonkeyPatch):
    import reproduce
    from results import Result
    from tables import table

    kept = [
        Result({"variant": row, "seed": seed}, row + seed, {"rouge1": 1.0, "rouge2": 2.0, "rougeL": score, "loss": 5.0},
               {"parameters": 7.0, "train/seconds": 60.0}, ["rouge"], "t", "s", "p", "cpu")
        for row, seed, score in (("gpt", "1", 9.0), ("bertshare", "1", 20.0), ("bertshare", "2", 22.0))
    ]  # fmt: skip
    monkeypatch.setattr(reproduce, "read", lambda block: kept)
    assert table("summarization").splitlines()[2:] == [
        "| variant=bertshare | 1, 2 | 1.00 ± 0.00 | 2.00 ± 0.00 | 21.00 ± 1.41 | 5.00 ± 0.00 | 7 | 1.0 |",
        "| variant=gpt | 1 | 1.00 | 2.00 | 9.00 | 5.00 | 7 | 1.0 |",
    ]
