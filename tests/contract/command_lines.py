"""Whether a command that a document or a job shows exists, with its options. No test here."""

import importlib.util
import re
import shlex
from typing import Any

import typer

from tests.contract.repository import ROOT


def check(command: str) -> None:
    """Check a command of make, thaw, dvc or `python -m`; any other passes. Raises: AssertionError if it is none."""
    words = shlex.split(command.partition("&&")[0])
    if words[:3] == ["python", "-m", "thaw"]:
        words = words[2:]
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets, command
    elif words[0] == "thaw" and words[1:] != ["--version"]:
        _check_thaw(words, command)
    elif words[0] == "dvc":
        _check_dvc(words, command)
    elif words[0] == "python":
        assert importlib.util.find_spec(words[2]) is not None, command


def _check_thaw(words: list[str], command: str) -> None:
    from thaw.cli import app

    inner: Any = typer.main.get_command(app)
    while words[1:] and hasattr(inner, "commands"):  # `thaw data diff` is a command of the group `thaw data`
        assert words[1] in inner.commands, command
        inner, words = inner.commands[words[1]], words[1:]
    if inner.context_settings.get("ignore_unknown_options"):  # `thaw repro`, which passes them on to `dvc repro`
        _check_dvc(["dvc", *words], command)
        return
    options = {option for parameter in inner.params for option in parameter.opts}
    used = {word.partition("=")[0] for word in words[1:] if word.startswith("-")}
    assert used <= options | {"--help"}, command


def _check_dvc(words: list[str], command: str) -> None:
    from dvc.cli import parse_args

    try:
        parse_args(words[1:])
    except Exception as error:
        raise AssertionError(f"{command}: {error}") from error
