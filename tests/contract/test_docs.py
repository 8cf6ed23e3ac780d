"""What the documents say can be typed, and what they say of params.yaml is so."""

import re
import shlex
from pathlib import Path

import pytest

from tests.contract import command_lines, params_page, repository

PAGES = [repository.ROOT / "README.md", *sorted((repository.ROOT / "docs").rglob("*.md"))]
GUIDE = [page for page in PAGES if page.name == "README.md" or page.parent.name == "guide"]
_BLOCK = re.compile(r"^```(?:sh|shell|console|bash|yaml)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\s*(?:[$] |- run: |run: |- )?((?:make|python -m|dvc|thaw)\s.*?)(?:\s+#.*)?$", re.MULTILINE)


def _commands() -> list[tuple[str, str]]:
    return [
        (page.relative_to(repository.ROOT).as_posix(), command)
        for page in GUIDE
        for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
        for command in _COMMAND.findall(block)
    ]


def test_the_documents_show_commands_at_all() -> None:
    assert {command for page, command in _commands() if page == "README.md"} >= {"make demo", "make test"}


@pytest.mark.parametrize("program", ["make", "thaw", "dvc", "python"])
def test_every_command_in_the_documents_exists_with_its_options(program: str) -> None:
    for page, command in _commands():
        if shlex.split(command)[0] == program:
            try:
                command_lines.check(command)
            except AssertionError as error:
                raise AssertionError(f"{page}: {error}") from error


def test_every_target_of_the_makefile_explains_itself() -> None:
    text = (repository.ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("help", "demo", "test", "check", "bench", "install"):
        assert re.search(rf"^{target}:[^#\n]*## \S", text, re.MULTILINE), target


def test_the_page_on_params_is_what_the_model_and_the_shipped_file_say() -> None:
    assert params_page.PAGE.read_text(encoding="utf-8") == params_page.render(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(repository.ROOT).as_posix())
def test_every_link_between_documents_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(path), f"{page.name} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """Return what headings of a page are called in links, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_in_the_index() -> None:
    folder = repository.ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert pages
    assert [name for name in pages if f"]({name})" not in index] == []


def test_the_pictures_are_used_and_small() -> None:
    pictures = sorted((repository.ROOT / "docs" / "images").iterdir())
    assert pictures
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in pictures:
        assert picture.stat().st_size < 300_000, f"{picture.name}: draw it with fewer colours"
        assert f"images/{picture.name}" in text, f"no page shows {picture.name}"
