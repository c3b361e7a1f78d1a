"""Leads and the copy are the beginning of the source; the permutation gives every example another's prediction."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.baselines import (
    BASELINES,
    baseline_predictions,
    lead_sentence,
    permuted,
)
from encdec_lightning.records import Prediction

PREFIXES = [name for name in BASELINES if name.startswith("lead_") or name == "copy"]


def by(name: str, source: str) -> str:
    return BASELINES[name](Prediction("1", source, "a reference", "not looked at"), None)


TEXTS = st.one_of(
    st.text(),
    st.lists(st.sampled_from(["Mr.", "e.g.", "Stop.", "Go!", '"Why?"', "next", "Next", "3", " \n"])).map(" ".join),
)


def made(count: int) -> list[Prediction]:
    """Predictions (41 at most) whose ids are in neither alphabetical nor numerical order."""
    return [Prediction(str(i * 7 % 41), f"source {i}", f"reference {i}", f"prediction {i}") for i in range(count)]


@pytest.mark.parametrize(
    ("source", "lead"),
    [
        ("One here. Two there. Three.", "One here."),
        ("Really? Yes.", "Really?"),
        ("Stop! Now.", "Stop!"),
        ("In 1999. 2000 came.", "In 1999."),
        ('He left. "Why?" she asked.', "He left."),
        ("He left. “Why?” she asked.", "He left."),
        ('"We won." The crowd cheered.', '"We won."'),
        ("It ended (at last.) They left.", "It ended (at last.)"),
        ("Wait... Then go.", "Wait..."),
        ("Split . Already tokenized .", "Split ."),
        ("  One.\n\nTwo.", "  One."),
        ("Été fini. Écoutez.", "Été fini."),
        # No sentence begins after these.
        ("It cost 3.5 million. it rose. Then fell.", "It cost 3.5 million. it rose."),
        ("See example.com. for more", "See example.com. for more"),
        ("no end at all", "no end at all"),
        ("Only one.", "Only one."),
        ("Only one. ", "Only one. "),
        ("", ""),
        (" \n", " \n"),
        # Abbreviations.
        ("Fruit, e.g. Apples, sell. They do.", "Fruit, e.g. Apples, sell."),
        ("Fruit (e.g. Apples) sells. It does.", "Fruit (e.g. Apples) sells."),
        ("Big, i.e. 9 feet. Yes.", "Big, i.e. 9 feet."),
        ("Apples etc. Were sold. Yes.", "Apples etc. Were sold."),
        ("Roe vs. Wade fell. Yes.", "Roe vs. Wade fell."),
        ("See cf. Smith 2000. Yes.", "See cf. Smith 2000."),
        ("CF. Smith 2000. Yes.", "CF. Smith 2000."),
        ("Mr. J. Smith of the U.S. Senate spoke. He left.", "Mr. J. Smith of the U.S. Senate spoke."),
    ],
)
def test_lead_sentence(source: str, lead: str) -> None:
    assert lead_sentence(source) == lead


@settings(deadline=None)
@given(source=TEXTS)
def test_lead_sentence_is_a_prefix_and_the_rest_starts_a_word(source: str) -> None:
    lead = lead_sentence(source)
    assert source.startswith(lead)
    assert lead == source or source[len(lead)].isspace()


@pytest.mark.parametrize("name", PREFIXES)
@settings(deadline=None)
@given(source=TEXTS)
def test_leads_and_the_copy_are_prefixes_of_the_source_in_words(name: str, source: str) -> None:
    words = by(name, source).split()
    assert words == source.split()[: len(words)]
    assert words or not source.split()


@pytest.mark.parametrize(("name", "count"), [("lead_8_words", 8), ("lead_12_words", 12)])
@pytest.mark.parametrize("available", [0, 1, 7, 8, 9, 12, 13, 40])
def test_lead_words_counts_words(name: str, count: int, available: int) -> None:
    words = [f"w{i}" for i in range(available)]
    assert by(name, " \n ".join(words)) == " ".join(words[:count])


def test_copy_is_the_source_to_the_letter() -> None:
    assert by("copy", " a  b\n") == " a  b\n"


def test_baselines_by_name() -> None:
    leads = ["lead_sentence", "lead_2_sentences", "lead_3_sentences", "lead_8_words", "lead_12_words"]
    assert list(BASELINES) == [*leads, "copy", "oracle_1_sentence", "oracle_3_sentences"]


def test_lead_sentences_are_lines_or_follow_the_rule():
    assert by("lead_2_sentences", "One is. Two are! Three?") == "One is.\nTwo are!"
    assert by("lead_3_sentences", "One. Two\n\n Three \nFour\nFive") == "One. Two\n Three \nFour"
    assert by("lead_3_sentences", "No end") == "No end"


def test_an_oracle_knows_the_reference():
    source = "The sun is hot. A cat sat on it. It rained here."
    found = [
        BASELINES[name](Prediction("1", source, "rained; the cat sat", ""), None)
        for name in ("oracle_1_sentence", "oracle_3_sentences")
    ]
    assert found == ["A cat sat on it.", "A cat sat on it.\nIt rained here."]
    assert BASELINES["oracle_3_sentences"](Prediction("1", source, "nothing alike", ""), None) == "The sun is hot."
    assert BASELINES["oracle_3_sentences"](Prediction("1", " ", "a", ""), None) == ""


@pytest.mark.parametrize(
    ("name", "plain", "told"),
    [
        ("lead_sentence", "One. Two", "One."),
        ("lead_2_sentences", "One. Two\nthree four. Five.", "One.\nTwo"),
        ("oracle_1_sentence", "three four. Five.", "three four."),
        ("copy", None, None),
    ],
)
def test_sentences_are_those_that_a_model_was_told(name: str, plain: str | None, told: str | None) -> None:
    """By the rules here a text of several lines has a sentence on each; a model may know better."""
    source = "One. Two\nthree four. Five."
    before = [Prediction("1", source, "three four", "")]

    def split(text: str) -> list[str]:
        return ["One.", "Two", "three four.", "Five."]

    found = [baseline_predictions(name, before, each)[0].prediction for each in (None, split)]
    if name == "lead_sentence":
        plain = lead_sentence(source)
    assert found == [source if plain is None else plain, source if told is None else told]


def test_baseline_predictions_change_the_prediction_alone() -> None:
    before = [Prediction("b", "One. Two.", "r1", "p1"), Prediction("a", "Three. Four.", "r2", "p2")]
    assert baseline_predictions("lead_sentence", before) == [
        Prediction("b", "One. Two.", "r1", "One."),
        Prediction("a", "Three. Four.", "r2", "Three."),
    ]
    assert [one.prediction for one in before] == ["p1", "p2"]
    assert baseline_predictions("copy", []) == []


def test_an_unknown_baseline_is_named_with_a_suggestion() -> None:
    with pytest.raises(UserError) as caught:
        baseline_predictions("lead_sentense", made(2))
    assert str(caught.value) == (
        f"task.baselines is 'lead_sentense': it must be one of {', '.join(BASELINES)} (did you mean 'lead_sentence'?)."
    )


@settings(deadline=None)
@given(count=st.integers(2, 40), seed=st.integers(0, 1000))
def test_permuted_is_a_derangement_of_the_predictions_alone(count: int, seed: int) -> None:
    before = made(count)
    after = permuted(before, seed)
    for old, new in zip(before, after, strict=True):
        assert (new.id, new.source, new.reference) == (old.id, old.source, old.reference)
        assert new.prediction != old.prediction
    assert sorted(one.prediction for one in after) == sorted(one.prediction for one in before)


@settings(deadline=None)
@given(count=st.integers(2, 20), order=st.randoms(use_true_random=False))
def test_permuted_does_not_depend_on_the_order(count: int, order: random.Random) -> None:
    before = made(count)
    shuffled = list(before)
    order.shuffle(shuffled)
    expected = {one.id: one for one in permuted(before)}
    assert permuted(shuffled) == [expected[one.id] for one in shuffled]


def test_permuted_shuffles_by_its_own_seed_and_leaves_the_global_generator_alone() -> None:
    before = made(30)
    random.seed(0)
    first = permuted(before)
    random.seed(1)
    state = random.getstate()
    assert permuted(before) == first
    assert random.getstate() == state
    assert permuted(before, seed=1) != first
    # Not merely each example's neighbour in the order of ids.
    ordered = sorted(before, key=lambda one: one.id)
    neighbour = {one.id: after.prediction for one, after in zip(ordered, ordered[1:] + ordered[:1], strict=True)}
    assert sum(neighbour[one.id] == one.prediction for one in first) < 10


@pytest.mark.parametrize("count", [0, 1])
def test_permuted_needs_two_examples(count: int) -> None:
    with pytest.raises(UserError, match=rf"task\.baselines is 'permuted': .* at least two .* there are {count}\.$"):
        permuted([Prediction("a", "s", "r", "p")] * count)
