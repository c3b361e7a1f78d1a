"""The longest common subsequence of two sequences of words, by the bit vectors of Hyyrö (2004).

A row of the table of prefixes is one whole number. Its bit i is 0 where word i of `one` lengthens the subsequence.
"""

from __future__ import annotations

from collections.abc import Sequence


def common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words the longest common subsequence has."""
    row, *_ = reversed(_rows(one, other))
    return _length(row, len(one))


def common_places(one: Sequence[str], other: Sequence[str]) -> list[int]:
    """The places in `one` of a longest common subsequence, ascending; of several, the one that rouge-score takes."""
    rows = _rows(one, other)
    i, j, places = len(one), len(other), []
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif _length(rows[j - 1], i) > _length(rows[j], i - 1):
            j -= 1
        else:
            i -= 1
    return places[::-1]


def _rows(one: Sequence[str], other: Sequence[str]) -> list[int]:
    """A row for each prefix of `other`, from the empty one."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(one)) - 1
    rows = [every]
    for word in other:
        row = rows[-1]
        matched = row & places.get(word, 0)
        rows.append((row + matched | row - matched) & every)
    return rows


def _length(row: int, prefix: int) -> int:
    """Of the longest common subsequence of the row's prefix of `other` and so many words of `one`."""
    return prefix - (row & ((1 << prefix) - 1)).bit_count()
