import re

import pytest

from thaw import errors


def test_the_tree_at_the_top_of_the_file_shows_every_error() -> None:
    drawn = set(re.findall(r"\w+Error", errors.__doc__ or ""))
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert drawn == defined


def test_every_error_that_a_user_can_act_on_is_a_thaw_error_and_explains_itself() -> None:
    for value in vars(errors).values():
        if isinstance(value, type):
            assert issubclass(value, errors.ThawError)
            assert value.__doc__


def test_a_thaw_error_prints_as_its_text() -> None:
    assert str(errors.DataError("data/raw is empty; put images there")) == "data/raw is empty; put images there"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one"), "one"),
        (ValueError("\n  one\ntwo\n"), "one"),
        (ValueError("x" * 161), "x" * 160),
        (ValueError(), "ValueError"),
        (RuntimeError(" \n"), "RuntimeError"),
        (KeyError("one"), "'one'"),
        (ValueError("Failed. \x1b[96mStep 1/3\x1b[0m of it"), "Failed. Step 1/3 of it"),
    ],
)
def test_the_first_line_of_an_error_is_never_empty_and_never_long(error: Exception, line: str) -> None:
    assert errors.first_line(error) == line
