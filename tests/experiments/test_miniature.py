"""The recipe of the miniature checkpoints: no evaluation text, the same vocabulary everywhere, masks, probabilities."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from encdec_lightning.launch.command_line.overrides import compose_config

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
        found = sweeps(name, None, [])
        options = command(name, tmp_path, {axis: [found[0][axis][0], found[-1][axis][-1]] for axis in found[0]})[6:]
        axes = [key for key in options if re.search(r",(?![^\[]*\])", key)]
        points = [re.split(r",(?![^\[]*\])", axis.partition("=")[2]) for axis in axes]
        every = list(itertools.product(*points))
        for point in (every[0], every[-1]):
            chosen = {axis: f"{axis.partition('=')[0]}={value}" for axis, value in zip(axes, point, strict=True)}
            config = compose_config([chosen.get(each, each) for each in options], [PRESETS])
            assert config.task.train == str(tmp_path / config.task.train.split("/")[-2] / "train.jsonl.gz")
            steps = {"tune": 200, "fusion": 900, "equal": 708}.get(name.partition("-")[0], 600)
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


def test_a_block_is_run_a_seed_at_a_time_and_each_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a sweep does not vary is not in its runs' labels, so that it is told to what keeps them."""
    import run

    began: list[list[str]] = []
    kept: list[Any] = []
    monkeypatch.setattr(run.subprocess, "run", lambda line, check: began.append(line) or SimpleNamespace(returncode=0))
    monkeypatch.setattr(run, "read", lambda block: [])
    monkeypatch.setattr(run, "keep", lambda block, folder, **options: kept.append(options["single"]) or [])
    monkeypatch.setattr("sys.argv", ["run.py", "less-data", "--data", str(tmp_path), "--seeds", "2"])
    assert run.main() == 0
    assert kept == [{"train_share": share, "seed": seed} for seed in "12" for share in ("0.1", "0.01")]
    assert all("variant=rnd2rnd,bert2rnd,bertshare" in line for line in began) and len(began) == 4
    monkeypatch.setattr("sys.argv", ["run.py", "new-vocabulary", "--data", str(tmp_path), "--seeds", "1"])
    assert run.main() == 0 and kept[-1] == {"seed": "1"}
