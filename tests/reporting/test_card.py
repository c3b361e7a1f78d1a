"""The model card: its head is the Hub's, its code runs, and it names nothing of the machine."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from tiny import family_checkpoint

from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.train import main
from encdec_lightning.composition.local_checkpoints import hub_id
from encdec_lightning.reporting.card import Data, write_card
from encdec_lightning.reporting.card_code import FOLDER, TEXTS
from encdec_lightning.run import Run

SEARCH = ["generation.num_beams=3", "generation.length_penalty=2.0", "generation.min_length=3"]


def trained(files, folder, *options):
    steps = ["trainer.max_steps=8", "training.learning_rate=1e-2", "task.baselines=[lead_sentence]"]
    assert main([*files.overrides(f"folder={folder}", *steps, *SEARCH), *options]) == 0
    return Run.open(folder)


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    return trained(files, tmp_path_factory.mktemp("card") / "run", "variant=bert2bert", "name=a card")


def block(card):
    (found,) = re.findall(r"```python\n(.*?)```", card.content, re.DOTALL)
    return found


def printed(run, monkeypatch, capsys):
    """What the code of the card prints for the test set, run in the exported folder, and what the run predicted."""
    predictions = run.predictions()
    text = block(ModelCard.load(run.model / "README.md"))
    assert FOLDER in text and TEXTS in text
    program = text.replace(TEXTS, f"texts = {[each.source for each in predictions]!r}")
    monkeypatch.chdir(run.model)
    capsys.readouterr()
    exec(compile(program, "README.md", "exec"), {})
    return capsys.readouterr().out.splitlines(), [each.prediction for each in predictions]


def test_the_head_is_the_hubs(run):
    card = ModelCard.load(run.model / "README.md")
    data, metrics = card.data, run.metrics()
    assert data.library_name == "transformers" and data.pipeline_tag == "text-generation"
    assert {"encdec_lightning", "encoder-decoder"} <= {*data.tags}
    assert data.license is None and data.language is None and data.base_model is None and data.datasets is None
    assert data.model_name == "a card" and data.metrics == ["rouge"]
    values = {each.metric_name: each.metric_value for each in data.eval_results}
    assert values == {name: round(metrics[f"test/{name}"], 2) for name in ("rouge1", "rouge2", "rougeL")}
    assert {each.dataset_name for each in data.eval_results} == {"test.jsonl"}


def test_the_table_has_intervals_and_baselines(run):
    text, metrics = ModelCard.load(run.model / "README.md").content, run.metrics()
    for row, key in (
        ("lead sentence", "baseline/lead_sentence"),
        ("this model", "test"),
        ("sources permuted", "control"),
    ):
        cells = [
            "{:.1f} ({:.1f}-{:.1f})".format(*(metrics[f"{key}/{name}{end}"] for end in ("", "/low", "/high")))
            for name in ("rouge1", "rouge2", "rougeL")
        ]
        assert f"| {row} | {' | '.join(cells)} |" in text
    for words in ("On 12 examples of test.jsonl", "train.jsonl, 64 pairs", "8 steps of AdamW", "learning rate 0.01"):
        assert words in text


def test_a_value_of_a_baseline_that_is_missing_leaves_its_cell_empty(run, tmp_path):
    run = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    run.write_metrics({**run.metrics(), "baseline/lead_sentence/rouge1": None, "control/rouge2/low": None})
    write_card(run, run.model)
    lines = ModelCard.load(run.model / "README.md").content.splitlines()
    (lead,) = [line for line in lines if line.startswith("| lead sentence |")]
    (control,) = [line for line in lines if line.startswith("| sources permuted |")]
    assert [not cell.strip() for cell in lead.split("|")[2:-1]] == [True, False, False]
    assert [not cell.strip() for cell in control.split("|")[2:-1]] == [False, True, False]


def test_rates_that_some_parameters_have_alone_are_said(run, tmp_path):
    run = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    config = run.config()
    rates = {"encoder_learning_rate": 2e-3, "encoder_warmup_steps": 20_000, "fresh_learning_rate": 2e-2}
    said = ("the encoder's learning rate 0.002, 20,000 steps of warm-up", "rate 0.02 of what started at random")
    for given, is_said in (({}, False), (rates, True)):
        (run.folder / "config.yaml").write_text(yaml.safe_dump({**config, "training": config["training"] | given}))
        write_card(run, run.model)
        text = (run.model / "README.md").read_text(encoding="utf-8")
        assert [words in text for words in said] == [is_said] * 2


def test_nothing_of_the_machine_is_named(run, files):
    text = (run.model / "README.md").read_text(encoding="utf-8")
    assert "`bert` (a local folder)" in text
    assert "/" not in re.sub(r"[\w]+/(bert|s)\b", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize(
    "options", [["variant=bert2bert"], ["variant=bert2gpt"], ["variant=gpt"]], ids=lambda each: each[0]
)
def test_the_code_of_the_card_writes_what_was_tested(files, tmp_path, monkeypatch, capsys, options):
    run = trained(files, tmp_path / "run", *options, "generation.no_repeat_ngram_size=3")
    found, expected = printed(run, monkeypatch, capsys)
    assert found == expected and any(expected)


def test_an_encoder_that_stock_transformers_cannot_load_is_loaded_by_this_package(files, tmp_path, monkeypatch, capsys):
    t5 = family_checkpoint(tmp_path / "t5", "t5")
    run = trained(files, tmp_path / "run", "variant=bert2bert", f"model.encoder={t5}", "model.weights=untied")
    found, expected = printed(run, monkeypatch, capsys)
    assert found == expected
    text = (run.model / "README.md").read_text()
    assert "from encdec_lightning import EncoderDecoder" in text and "`encdec_lightning` must be installed" in text


def test_the_code_of_a_model_that_reads_marked_sentences(files, tmp_path, monkeypatch, capsys):
    marked = ("model.encoder_sentences=en", "model.encoder_segments=interval")
    run = trained(files, tmp_path / "run", "variant=bertsumabs", *marked)
    assert "from encdec_lightning import EncoderDecoder, Tokenizers" in (run.model / "README.md").read_text()
    found, expected = printed(run, monkeypatch, capsys)
    assert found == expected and any(expected)


def test_what_stock_transformers_cannot_do_is_said(files, tmp_path):
    run = trained(files, tmp_path / "run", "variant=bert2bert", "generation.length_normalization=wu")
    assert "`length_normalization=wu`" in (run.model / "README.md").read_text()


def test_ids_of_the_hub_are_base_models_and_data_sets(run, tmp_path):
    run = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    config = run.config()
    config["model"] |= {"encoder": "google-bert/bert-base-cased", "decoder": "gpt2", "weights": "untied"}
    config["task"] |= {"train": "hub:ag/news@main:en:train", "test": "hub:ag/news@main:en:test[:9]"}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    run.write_metrics({**run.metrics(), "test/rouge2": None})
    write_card(run, run.model)
    data = ModelCard.load(run.model / "README.md").data
    assert data.base_model == ["google-bert/bert-base-cased", "gpt2"] and data.datasets == ["ag/news"]
    (result, _) = data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("ag/news", "en", "test[:9]")
    assert result.dataset_revision == "main"
    assert "rouge2" not in {each.metric_name for each in data.eval_results}  # a value that could not be computed


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/home/someone/data/a.jsonl", Data("a.jsonl")),
        ("../x/a.en+../x/a.de", Data("a.en+a.de")),
        ("https://host/a.csv?key=secret", Data("a.csv")),
        ("hub:a/b::test", Data("b, test", "a/b", None, "test")),
        ("hub:/home/someone/b:c:test", Data("b, test", None, "c", "test")),
        ("pydoc", Data("pydoc")),
    ],
)
def test_data_are_named_without_their_place(location, expected):
    assert Data.of(location) == expected


def test_a_copy_in_the_cache_folder_keeps_its_id(monkeypatch, tmp_path, in_tmp):
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", str(tmp_path))
    assert hub_id(str(tmp_path / "checkpoints" / "google-bert--bert-base-cased")) == "google-bert/bert-base-cased"
    assert hub_id("google-bert/bert-base-cased") == "google-bert/bert-base-cased"
    (in_tmp / "google-bert" / "bert-base-cased").mkdir(parents=True)
    assert hub_id("google-bert/bert-base-cased") is None  # a folder of that name
    assert hub_id("/home/someone/bert") is hub_id("../bert") is None


def test_an_evaluation_renews_the_scores(files, tmp_path):
    run = trained(files, tmp_path / "run", "variant=bert2bert")
    (run.model / "README.md").unlink()
    assert evaluate([f"run={run.folder}"]) == 0
    assert ModelCard.load(run.model / "README.md").data.eval_results
