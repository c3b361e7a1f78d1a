"""What of Hydra's private parts launch/sweep.py uses to check all points of a grid before the first one starts."""

from __future__ import annotations

import inspect

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser


def test_the_basic_sweeper_splits_a_grid_into_its_points():
    parsed = OverridesParser.create().parse_overrides(["a=1,2", "b=x", "c=choice(3,4)"])
    (points,) = BasicSweeper.split_arguments(parsed, None)  # one batch
    assert points == [["a=1", "b=x", "c=3"], ["a=1", "b=x", "c=4"], ["a=2", "b=x", "c=3"], ["a=2", "b=x", "c=4"]]
    assert list(inspect.signature(BasicSweeper.split_arguments).parameters) == ["overrides", "max_batch_size"]
