"""Metrics by name and by dotted path, scores with intervals, and each mistake in a sentence."""

import random
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from encdec_lightning.cli.help import options_help
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.evaluation.exact_match import ExactMatch
from encdec_lightning.evaluation.metric import Score, score
from encdec_lightning.evaluation.registry import METRICS, load_metric, score_all
from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.evaluation.significance import interval
from encdec_lightning.records import Prediction

DESCRIPTIVE = ("length", "novel_ngrams", "repetition")
KNOWN = ", ".join(METRICS)
OWN = '''
import numpy as np

class Length:
    """Words of all predictions over words of all references: a ratio of sums, not a mean of ratios."""
    names = ("length_ratio",)
    signature = "words"

    def statistics(self, prediction):
        return [len(prediction.prediction.split()), len(prediction.reference.split())]

    def aggregate(self, total, count):
        return total[..., :1] / total[..., 1:]

class Arguments(Length):
    def __init__(self, path):
        raise AssertionError("never called")

class Unnamed:
    signature = "words"
    def statistics(self, prediction): ...

class OneString(Length):
    names = "length_ratio"

class NoNames(Length):
    names = ()

class Broken(Length):
    def __init__(self):
        raise RuntimeError("the user's own fault")

class Failing(Length):
    names = ("left", "right")
    def statistics(self, prediction):
        raise KeyError("two\\nlines")

class Exiting(Length):
    names = ("exiting",)
    def aggregate(self, total, count):
        raise SystemExit(3)

instance = Length()
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The dotted path of a user's own module, importable for the time of a test."""
    package = tmp_path / "users_own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "lengths.py").write_text(OWN)
    (package / "lacking.py").write_text("import a_library_that_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("users_own_package", "users_own_package.lengths", "users_own_package.lacking"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "users_own_package.lengths"


def made(*texts: tuple[str, str]) -> list[Prediction]:
    return [Prediction(str(i), "unused", reference, prediction) for i, (reference, prediction) in enumerate(texts)]


def message(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load_metric(name)
    assert (caught.value.field, caught.value.value) == ("task.metrics", name)
    assert not caught.value.expected.endswith(".")
    return str(caught.value)


def test_metrics_by_name() -> None:
    assert isinstance(load_metric("rouge"), Rouge)
    assert isinstance(load_metric("exact_match"), ExactMatch)


def test_the_help_names_the_metrics_that_there_are() -> None:
    assert f"Metrics: {KNOWN}, or the dotted path of a class of your own" in " ".join(options_help().split())


def test_a_metric_of_the_users_own(own: str) -> None:
    metric = load_metric(f"{own}.Length")
    scores = score(made(("a b", "a"), ("a b c d", "a b c d e")), metric)
    assert list(scores) == ["length_ratio"]
    assert scores["length_ratio"].value == 6 / 6  # The mean of the two ratios would be 0.875.
    assert (scores["length_ratio"].low, scores["length_ratio"].high) == (0.5, 1.25)
    assert scores["length_ratio"].signature == "length_ratio|words"


def test_the_path_of_a_metric_of_ours_works_too() -> None:
    assert isinstance(load_metric("encdec_lightning.evaluation.rouge.Rouge"), Rouge)


def test_an_unknown_name() -> None:
    assert message("rogue") == (
        f"task.metrics is 'rogue': expected {KNOWN} or the dotted path package.module.Class of your own metric "
        "(did you mean 'rouge'?)."
    )


@pytest.mark.parametrize("name", ["", ".", "rouge.", ".rouge", "a..b", "my-package.Metric", "path/to/metric.py"])
def test_what_is_no_dotted_path_is_an_unknown_name(name: str) -> None:
    assert f"expected {KNOWN} or the dotted path" in message(name)


def test_a_module_that_is_not_there() -> None:
    sentence = message("no_such_package.module.Class")
    assert "no_such_package.module cannot be imported (No module named 'no_such_package')" in sentence
    assert "PYTHONPATH" in sentence


def test_a_module_whose_own_import_fails(own: str) -> None:
    assert "No module named 'a_library_that_nobody_has'" in message("users_own_package.lacking.Length")


def test_a_misspelt_name_with_a_dot_is_answered_with_the_near_one() -> None:
    assert message("exact.match").endswith("(did you mean 'exact_match'?).")


def test_a_class_that_is_not_there(own: str) -> None:
    sentence = message(f"{own}.Lenght")
    assert sentence.endswith("the module users_own_package.lengths has no Lenght (did you mean 'Length'?).")


@pytest.mark.parametrize("what", ["Arguments", "instance"])
def test_a_class_that_cannot_be_called_without_arguments(own: str, what: str) -> None:
    needs = {"Arguments": "needs other arguments (missing a required argument: 'path')", "instance": "expected a class"}
    assert needs[what] in message(f"{own}.{what}")


def test_an_object_that_is_no_metric(own: str) -> None:
    sentence = message(f"{own}.Unnamed")
    assert "it has no names, aggregate; a metric has names, signature, statistics(prediction)" in sentence


@pytest.mark.parametrize("what", ["OneString", "NoNames"])
def test_names_that_are_no_tuple_of_strings(own: str, what: str) -> None:
    assert "its names must be a tuple of strings, not " in message(f"{own}.{what}")


def test_an_error_of_the_users_own_code_is_told(own: str) -> None:
    assert message(f"{own}.Broken").endswith("it cannot be made (RuntimeError: the user's own fault).")


def test_a_metric_that_fails_costs_its_own_values_alone(own: str) -> None:
    predictions = made(("a b", ""), ("", "a b c d"))
    names = ["exact_match", f"{own}.Failing", f"{own}.Exiting", f"{own}.Broken", f"{own}.OneString", "rouge"]
    scores, failed = score_all(predictions, names)
    assert list(scores) == ["exact", "rouge1", "rouge2", "rougeL"]
    assert scores["exact"] == score(predictions, ExactMatch())["exact"]
    assert list(failed) == ["left", "right", "exiting", *names[3:5]]
    assert failed["left"] == failed["right"] == "KeyError: 'two\\nlines'"
    assert failed["exiting"] == "SystemExit: 3"
    assert failed[names[3]].endswith("it cannot be made (RuntimeError: the user's own fault).")
    assert "its names must be a tuple of strings" in failed[names[4]]


def test_nobody_is_kept_from_interrupting_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, prediction: Prediction) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ExactMatch, "statistics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_all(made(("a", "a")), ["exact_match"])


def test_a_ratio_of_zeros_is_nan_without_a_warning(own: str) -> None:
    found = score(made(("", "a"), ("", "b")), load_metric(f"{own}.Length"))["length_ratio"]
    assert not np.isfinite([found.value, found.low, found.high]).any()


def test_score_is_value_interval_and_signature_under_each_name() -> None:
    predictions = made(("the cat sat", "the cat"), ("a dog ran", "a dog ran"), ("one two", "three"))
    rouge = Rouge()
    scores = score(predictions, rouge, samples=200, seed=5, level=0.9)
    rows = np.stack([rouge.statistics(one) for one in predictions])
    low, high = interval(rows, rouge.aggregate, samples=200, seed=5, level=0.9)
    assert list(scores) == ["rouge1", "rouge2", "rougeL"]
    for i, name in enumerate(scores):
        assert scores[name].value == pytest.approx(100 * rows[:, i].mean())
        assert (scores[name].low, scores[name].high) == (low[i], high[i])
        assert scores[name].signature == f"{name}|{rouge.signature}"
        assert all(type(number) is float for number in (scores[name].value, scores[name].low, scores[name].high))
    options = "f1|stemmer:porter|tokenizer:ascii|references:best"
    assert scores["rougeL"].signature == f"rougeL|{options}|rouge-score:{version('rouge-score')}"


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from("abc"), min_size=4).map(" ".join), min_size=1, max_size=10))
@pytest.mark.parametrize(
    "name", [each for each in METRICS if each not in (*DESCRIPTIVE, "sari_standard", "ter", "bertscore")]
)
def test_identical_texts_score_100_for_certain(name: str, texts: list[str]) -> None:
    for one in score(made(*zip(texts, texts, strict=True)), load_metric(name), samples=10).values():
        assert (one.value, one.low, one.high) == pytest.approx((100, 100, 100))


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.tuples(*[st.lists(st.sampled_from("abc"), min_size=1).map(" ".join)] * 2), min_size=1),
    order=st.randoms(use_true_random=False),
)
@pytest.mark.parametrize("name", [each for each in METRICS if each not in ("ter", "length", "bertscore")])
def test_scores_lie_within_0_and_100_in_any_order(
    name: str, texts: list[tuple[str, str]], order: random.Random
) -> None:
    predictions = made(*texts)
    scores = score(predictions, load_metric(name), samples=10)
    for one in scores.values():
        assert -1e-9 <= one.low <= one.high <= 100 + 1e-9
        assert -1e-9 <= one.value <= 100 + 1e-9
    order.shuffle(predictions)
    assert score(predictions, load_metric(name), samples=10) == scores


def test_one_prediction_is_enough() -> None:
    expected = Score(100, 100, 100, f"exact|{ExactMatch().signature}", "max")
    assert score(made(("a", "a")), ExactMatch())["exact"] == expected


def test_no_predictions_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"^predictions is \[\]: expected at least one prediction to score\.$"):
        score([], ExactMatch())


def test_the_options_of_the_interval_are_checked() -> None:
    with pytest.raises(UserErrors, match=r"level is 2: it must lie between 0 and 1\."):
        score(made(("a", "a")), ExactMatch(), level=2)


class Ragged(ExactMatch):
    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        return np.ones(len(prediction.prediction))


class Scalar(ExactMatch):
    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        return np.array(1.0)


class TwoSums(ExactMatch):
    names = ("left", "right")

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        return np.ones(2)


class WrongAxis(TwoSums):
    """Works on one vector of sums and takes samples for sums on a matrix of them."""

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        return np.array([total[0] / count, total[1] / count])


class TooFew(TwoSums):
    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        return total[..., :1] / count


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (Ragged(), r"^task\.metrics is 'Ragged': its statistics must be vectors .* \(1,\), \(2,\)\.$"),
        (Scalar(), r"^task\.metrics is 'Scalar': its statistics must be vectors .* \(\)\.$"),
        (
            WrongAxis(),
            r"^task\.metrics is 'WrongAxis': its aggregate made \(2, 2\) of sums \(3, 2\); expected \(3, 2\)",
        ),
        (TooFew(), r"^task\.metrics is 'TooFew': its aggregate made \(3, 1\) of sums \(3, 2\); expected \(3, 2\)"),
    ],
)
def test_arrays_of_the_wrong_shape_are_a_mistake(metric: ExactMatch, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        score(made(("a", "a"), ("ab", "ab")), metric)
