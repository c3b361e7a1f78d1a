"""One docstring becomes one plain pair, or none."""

import ast
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from encdec_lightning.data.sources.docstrings import BODY_WORDS, SUMMARY_WORDS, pair_of, plain, text_and_name

SUMMARY = "Return the sum of both numbers."
BODY = (
    "The numbers are added one after the other, from the first to the last, and no number is ever added more than once."
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no markup at all", "no markup at all"),
        ("white  space\n\n\tis   one\nblank", "white space is one blank"),
        ("see :func:`open` now", "see open now"),
        ("see :py:meth:`~pkg.mod.Class.method` now", "see method now"),
        ("the :math:`x` axis", "the x axis"),
        ("a `title <https://e.org/x>`_ here", "a title here"),
        ("a `title <target>`__ here", "a title here"),
        ("a [title](https://e.org/a_(b)?q=1#z) here", "a title here"),
        ("a [`Model`](path/to.md) here", "a Model here"),
        ("a [`Model`] and [`~lib.Other`]", "a Model and Other"),
        ("not a reference: cos[position_ids]", "not a reference: cos[position_ids]"),
        ("at <https://e.org/x> or http://e.org now", "at or now"),
        ("``code`` and `code` and `link`_", "code and code and link"),
        ("**bold** and *italic* here", "bold and italic here"),
        ("2 * 3 and O(N**2) and **kwargs stay", "2 * 3 and O(N**2) and **kwargs stay"),
        ("as shown [1]_ and [#note]_ there", "as shown and there"),
        ("a |substitution| here", "a here"),
        (
            ":param x: the first\n:raises ValueError: never\n:return: nothing",
            "x: the first ValueError: never : nothing",
        ),
        ("@param x: the first", "x: the first"),
        ("Parameters\n----------\nx : int", "Parameters x : int"),
        ("Title\n~~~~~\nText that stays.", "Title Text that stays."),
        ("=====  ====\nname   what\n=====  ====\na      b\n=====  ====", "name what a b"),
        ("<Tip warning={true}>\n\nCareful.\n\n</Tip>", "Careful."),
        ("the <unk> token", "the <unk> token"),
        ("back\\slash", "back slash"),
        ("Before.\n\n>>> f(1)\n2\n>>> f(2)\n3\n\nAfter.", "Before. After."),
        ("Before.\n\nExamples\n--------\n>>> f(1)\n2", "Before."),
        ("Before.\n\nExample:\n    >>> f(1)\n    2\n\nReferences\n----------", "Before."),
        ("Examples of this are many", "Examples of this are many"),
        ("Before.\n```python\nx = 1\n```\nAfter.", "Before. After."),
        ("Before.\n```\nnever closed", "Before."),
        ("As this::\n\n    x = 1\n\n    y = 2\n\nAfter.", "As this: After."),
        ("As this::\n    not a block, since no line is blank", "As this: not a block, since no line is blank"),
        (".. code-block:: python\n    :linenos:\n\n    x = 1\n\nAfter.", "After."),
        ("Before.\n\n  .. math:: e = mc^2\n\n     f = ma\n\n  After.", "Before. After."),
        (".. note:: Mind this,\n   and that.", "Mind this, and that."),
        (".. warning::\n\n   Mind this.", "Mind this."),
        ("Before.\n\n  .. warning::\n\n     Mind this.", "Before. Mind this."),
        ("As this:\n\n::\n\n    x = 1\n\nAfter.", "As this: : After."),
        (".. versionadded:: 3.2\n\nText.", "Text."),
        (".. a comment\n\nText.", "Text."),
        ("Text [1]_.\n\n.. [1] Author: A Long Title,\n   Journal, 1999.\n\nMore.", "Text . More."),
        ("!!! note\n\nText.", "Text."),
    ],
)
def test_markup_goes_and_words_stay(text, expected):
    assert plain(text) == expected


PIECES = st.sampled_from(
    [*"`*~:.<>[]()_|\\\n\t =-\"'#", "``", "```", "**", "::", ".. ", ">>> ", "    ", "\n\n", ":ref:", "http://a", "b c"]
)
MARKUP = st.lists(PIECES | st.text(max_size=3), max_size=40).map("".join)


@settings(deadline=None)
@given(text=MARKUP)
@example("``a` b``` c")
@example("a\x0bb\u2028c\x85d")
def test_no_back_ticks_and_one_line_whatever_comes(text):
    made = plain(text)
    assert "`" not in made
    assert "\\" not in made
    assert made == " ".join(made.split())
    assert len(made.splitlines()) <= 1


WORDS = st.lists(st.sampled_from("the value of a list is not None, and (by default) zero.".split()), min_size=1).map(
    " ".join
)
MARKED = st.sampled_from(
    ["{}", ":func:`{}`", "``{}``", "`{}`", "**{}**", "*{}*", "`{} <t>`_", "[{}](u)", "[`{}`]", ":param {}: it", "\n\n{}::\n\n    c\n\n"]
)  # fmt: skip


@settings(deadline=None)
@given(parts=st.lists(st.tuples(MARKED, WORDS), min_size=1, max_size=6))
def test_cleaning_twice_is_cleaning_once(parts):
    once = plain("\n".join(form.format(words) for form, words in parts))
    assert plain(once) == once


@settings(deadline=None)
@given(words=st.lists(st.text("abcXYZ", min_size=1), max_size=20))
def test_plain_words_are_left_alone(words):
    assert plain(" ".join(words)) == " ".join(words)


LONG = (
    "::\n" * 20_000,
    "[`" * 20_000,
    f"::{' ' * 20_000}x",
    f"{' ' * 20_000}::",
    "..  code::\n  x\n" * 9_000,
    "|*`" * 9_000,
)


@pytest.mark.parametrize("number", range(len(LONG)))
def test_long_text_takes_no_quadratic_time(number):
    started = time.process_time()
    plain(LONG[number])
    assert time.process_time() - started < 1  # quadratic, it takes 5 seconds and more


def test_the_first_paragraph_is_the_summary_and_the_rest_the_body():
    assert pair_of(f"{SUMMARY}\n\n{BODY}") == (BODY, SUMMARY)
    assert pair_of(f"\n\nReturn the sum\nof *both* numbers.\n\n{BODY}\n\nAlso :func:`this`.\n") == (
        f"{BODY} Also this.",
        SUMMARY,
    )


@pytest.mark.parametrize(
    "docstring",
    [
        "",
        SUMMARY,
        f"{SUMMARY}\n{BODY}",  # no blank line: nobody knows where the summary ends
        f"a b\nc d\ne f\ng h\n\n{BODY}",  # no summary line
        f"{SUMMARY}\n\n:param x: short",
        f"{SUMMARY}\n\n>>> {BODY}",
        f"`code` (a, b) = {{(1, 2): 3}} -> [[1]] += 5 {'#' * 20}\n\n{BODY}",  # mostly symbols
        f"{SUMMARY}\n\n{BODY} {'0.5, 1e-3; ' * 30}",
    ],
)
def test_what_is_no_example_gives_none(docstring):
    assert pair_of(docstring) is None


@pytest.mark.parametrize(("shortest", "longest"), [SUMMARY_WORDS])
def test_summaries_have_4_to_30_words(shortest, longest):
    assert (shortest, longest) == (4, 30)
    for count, fits in ((shortest - 1, False), (shortest, True), (longest, True), (longest + 1, False)):
        assert (pair_of(f"{'word ' * count}\n\n{BODY}") is not None) is fits, count


def test_bodies_have_20_to_350_words():
    shortest, longest = BODY_WORDS
    assert BODY_WORDS == (20, 350)
    for count, fits in ((shortest - 1, False), (shortest, True), (longest, True), (longest + 1, False)):
        assert (pair_of(f"{SUMMARY}\n\n{'word ' * count}") is not None) is fits, count


def test_a_real_docstring():
    source = '''
def f(x):
    """Compute the :math:`n`-th root of ``x``.

    The root is found by `Newton's method <https://e.org>`_, starting from *x* itself, and refined until
    two steps agree [1]_. See :class:`~numpy.ndarray` for what is returned.

    Parameters
    ----------
    x : float
        A number that is **not** negative.

    Examples
    --------
    >>> f(4)
    2

    References
    ----------
    .. [1] Newton, Isaac. "De analysi",
       1669.
    """
'''
    docstring = ast.get_docstring(ast.parse(source).body[0])
    assert pair_of(docstring) == (
        "The root is found by Newton's method, starting from x itself, and refined until two steps agree . "
        "See ndarray for what is returned. Parameters x : float A number that is not negative.",
        "Compute the n-th root of x.",
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("is_frozen_param", "is frozen param"),
        ("IsFrozenParam", "is frozen param"),
        ("_private_name", "private name"),
        ("HTTPServer", "http server"),
        ("readJSONFile", "read json file"),
        ("a_b_c_d_e_f_g", "a b c d e f g"),
        ("a_b_c_d_e_f_g_h", None),
        ("name", None),
        ("__enter_it__", None),
        ("conv_2d", None),
        ("___", None),
    ],
)
def test_names_in_words(name, words):
    assert text_and_name(BODY, name) == (None if words is None else (BODY, words))


def test_texts_of_names_are_cleaned_and_cut():
    assert text_and_name("Only ``five`` words in here\n\n>>> code(all, the, rest, is, code)", "a_b") is None
    assert text_and_name("There are *six* words in here", "a_b") == ("There are six words in here", "a b")
    assert text_and_name("word " * 61, "a_b") == (("word " * 60).strip(), "a b")
