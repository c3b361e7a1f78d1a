"""Functions that take the fields of a dataclass as their arguments, which are spelled in the dataclass alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
Options = TypeVar("Options")
Result = TypeVar("Result")


def takes_fields_of(
    options: Callable[P, Options],
) -> Callable[[Callable[[Callable[[], Options]], Result]], Callable[P, Result]]:
    """Turn a function of `given`, which makes the dataclass when called, into one with the dataclass's arguments.

    `given()` raises what the dataclass says against the values. Type checkers, `help` and `inspect.signature` see
    the arguments and their defaults as if they were written out.
    """

    def decorate(function: Callable[[Callable[[], Options]], Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> Result:
            try:
                spelled.bind(*args, **kwargs)
            except TypeError as error:  # say it of the function that was called, not of the dataclass
                raise TypeError(f"{function.__name__}() {error}") from None
            return function(functools.partial(options, *args, **kwargs))

        hints = {**get_type_hints(options), "return": get_type_hints(function)["return"]}
        spelled = inspect.signature(options)
        parameters = [each.replace(annotation=hints[each.name]) for each in spelled.parameters.values()]
        shown = spelled.replace(parameters=parameters, return_annotation=hints["return"])
        vars(called)["__signature__"] = shown
        called.__annotations__ = {**{each.name: each.annotation for each in parameters}, "return": hints["return"]}
        return called

    return decorate
