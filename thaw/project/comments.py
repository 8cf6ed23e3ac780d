"""A comment on the change that a job runs for: written once, and rewritten by every later run.

GitHub and GitLab are known by the variables that they set in a job; elsewhere nothing is written. A token that is
missing, as in a fork, or that may not write, is no error.
"""

import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thaw.errors import first_line

MARK = "<!-- thaw ci report -->"
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Thread:
    """Where the comments of a change are."""

    comments: str
    """URL of the list, to which a new one is posted."""
    comment: str
    """URL of one, before its number."""
    rewrite: str
    """The HTTP method that rewrites one."""
    headers: Mapping[str, str]


def put(body: str) -> None:
    """Write the comment of the change that this job runs for, or rewrite it; print why not where that fails."""
    thread = thread_of(os.environ)
    if thread is None:
        return
    marked = {"body": f"{MARK}\n{body}"}
    try:
        found = _request(thread, "GET", f"{thread.comments}?per_page=100&sort=asc")
        ours = [entry["id"] for entry in found if entry["body"].startswith(MARK)]
        if ours:
            _request(thread, thread.rewrite, f"{thread.comment}/{ours[-1]}", marked)
        else:
            _request(thread, "POST", thread.comments, marked)
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        print(f"no comment was written, since {thread.comments} says: {first_line(error)}", file=sys.stderr)


def thread_of(variables: Mapping[str, str]) -> Thread | None:
    """Return the comments of the change that a job runs for, by its environment; None if there is none, or no token."""
    github = [variables.get(name) for name in ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN")]
    number = re.fullmatch(r"refs/pull/(\d+)/\w+", variables.get("GITHUB_REF", ""))
    if all(github) and number:
        issues, token = f"{github[0]}/repos/{github[1]}/issues", github[2]
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
        return Thread(f"{issues}/{number[1]}/comments", f"{issues}/comments", "PATCH", headers)
    gitlab = [
        variables.get(name) for name in ("CI_API_V4_URL", "CI_PROJECT_ID", "CI_MERGE_REQUEST_IID", "THAW_GITLAB_TOKEN")
    ]
    if all(gitlab):
        notes = f"{gitlab[0]}/projects/{gitlab[1]}/merge_requests/{gitlab[2]}/notes"
        return Thread(notes, notes, "PUT", {"PRIVATE-TOKEN": str(gitlab[3])})
    return None


def _request(thread: Thread, method: str, url: str, body: Mapping[str, str] | None = None) -> Any:
    """Return the JSON that a service answers. Raises: URLError, TimeoutError or ValueError if it does not."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is no address of a web service")
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={**thread.headers, "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - as above
        return json.load(response)
