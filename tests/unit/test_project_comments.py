"""The comment on a change: written once, rewritten later, and no error where it cannot be."""

from collections.abc import Iterator

import pytest

from tests.ci.answering import Comments, answering
from thaw.project import comments

GITHUB = {"GITHUB_REPOSITORY": "team/cells", "GITHUB_REF": "refs/pull/7/merge", "GITHUB_TOKEN": "secret"}
GITLAB = {"CI_PROJECT_ID": "12", "CI_MERGE_REQUEST_IID": "7", "THAW_GITLAB_TOKEN": "secret"}


@pytest.fixture
def service() -> Iterator[Comments]:
    """A service that has one comment of somebody else's."""
    with answering() as found:
        found.bodies[1] = "Looks good"
        yield found


def here(patch: pytest.MonkeyPatch, service: Comments, variables: dict[str, str]) -> None:
    """Let the environment be that of a job."""
    for name, value in {**variables, "GITHUB_API_URL": service.url, "CI_API_V4_URL": f"{service.url}/api/v4"}.items():
        patch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "places", "header"),
    [
        (
            GITHUB,
            ["GET /repos/team/cells/issues/7/comments", "PATCH /repos/team/cells/issues/comments/2"],
            ("Authorization", "Bearer secret"),
        ),
        (
            GITLAB,
            [
                "GET /api/v4/projects/12/merge_requests/7/notes",
                "PUT /api/v4/projects/12/merge_requests/7/notes/2",
            ],
            ("Private-Token", "secret"),
        ),
    ],
)
def test_a_second_report_rewrites_the_comment_of_the_first(
    service: Comments,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    places: list[str],
    header: tuple[str, str],
) -> None:
    here(monkeypatch, service, variables)
    comments.put("first")
    comments.put("second")
    assert service.bodies == {1: "Looks good", 2: f"{comments.MARK}\nsecond"}
    asked = [f"{method} {path.partition('?')[0]}" for method, path, _ in service.asked]
    assert asked == [places[0], places[0].replace("GET", "POST"), *places]
    names = {name.lower(): value for name, value in service.asked[-1][2].items()}
    assert names[header[0].lower()] == header[1]


def test_a_token_that_may_not_write_is_a_line_and_no_error(
    service: Comments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here(monkeypatch, service, GITHUB)
    service.status = 403
    comments.put("first")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("/issues/7/comments says: HTTP Error 403: Forbidden")
    monkeypatch.setenv("GITHUB_API_URL", "file:///etc")
    comments.put("first")
    assert "is no address of a web service" in capsys.readouterr().err


@pytest.mark.parametrize(
    "variables",
    [
        {},
        GITHUB | {"GITHUB_REF": "refs/heads/main"},
        {name: value for name, value in GITHUB.items() if name != "GITHUB_TOKEN"},
        GITLAB | {"THAW_GITLAB_TOKEN": ""},
    ],
)
def test_without_a_change_or_a_token_nothing_is_asked_for(
    service: Comments, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in {*GITHUB, *GITLAB}:
        monkeypatch.delenv(name, raising=False)
    here(monkeypatch, service, variables)
    comments.put("first")
    assert service.asked == []
