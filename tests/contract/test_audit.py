"""The gate of `make audit`: what passes and what does not, by reports that pip-audit wrote or could write."""

import copy
import datetime as dt
import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.contract import audit
from tests.contract.repository import ROOT

TODAY = dt.date(2026, 12, 24)
PINS = {"diskcache": "5.6.3", "packaging": "26.4"}
# pip-audit 2.10.1 of requirements-build.lock, 2026-11-30, where its data base could not be reached: exit code 0, and
# "No known vulnerabilities found". Two of eight entries.
RECORDED = json.loads("""{"dependencies": [
    {"name": "hatchling", "skip_reason": "Dependency not found on PyPI and could not be audited: hatchling (1.33.0)"},
    {"name": "packaging", "skip_reason": "Dependency not found on PyPI and could not be audited: packaging (26.4)"}
], "fixes": []}""")
# In the form of pip_audit/_format/json.py: no data base was there to record one with a finding.
FOUND: dict[str, Any] = {
    "dependencies": [
        {
            "name": "diskcache",
            "version": "5.6.3",
            "vulns": [{"id": "GHSA-0000-0000-0000", "fix_versions": [], "aliases": ["CVE-2025-69872"]}],
        },
        {"name": "packaging", "version": "26.4", "vulns": []},
    ],
    "fixes": [],
}
EXPLAINED = {
    "CVE-2025-69872": {"package": "diskcache", "date": dt.date(2026, 11, 30), "reason": "Only we can write it."}
}


def test_a_report_in_which_every_package_was_left_out_fails() -> None:
    assert audit.faults(RECORDED, {"hatchling": "1.33.0", "packaging": "26.4"}, {}, TODAY) == [
        (
            "2 of 2 locked packages were not looked up, such as hatchling: Dependency not found on PyPI and could not "
            "be audited: hatchling (1.33.0)"
        )
    ]


def test_an_empty_report_fails() -> None:
    (line,) = audit.faults({"dependencies": [], "fixes": []}, PINS, {}, TODAY)
    assert line.startswith("2 of 2 locked packages were not looked up, such as diskcache: it is not in the report")


def test_one_package_that_is_missing_or_has_another_version_fails() -> None:
    for change in ({"version": "26.3"}, {"name": "other"}):
        report = copy.deepcopy(FOUND)
        report["dependencies"][1].update(change)
        (line,) = audit.faults(report, PINS, EXPLAINED, TODAY)
        assert line.startswith("1 of 2 locked packages were not looked up, such as packaging: ")


def test_a_finding_that_is_explained_by_its_identifier_or_an_alias_passes() -> None:
    assert audit.faults(FOUND, PINS, EXPLAINED, TODAY) == []
    by_name = {"GHSA-0000-0000-0000": EXPLAINED["CVE-2025-69872"]}
    assert audit.faults(FOUND, PINS, by_name, TODAY) == []


def test_a_finding_that_is_not_explained_fails_and_says_what_mends_it() -> None:
    report = copy.deepcopy(FOUND)
    report["dependencies"][0]["vulns"][0]["fix_versions"] = ["5.7.0"]
    assert audit.faults(report, PINS, {}, TODAY) == [
        (
            "diskcache 5.6.3: GHSA-0000-0000-0000, mended by 5.7.0; take that, or say in vulnerabilities.toml why it "
            "does no harm here"
        )
    ]


def test_an_explanation_holds_for_its_package_alone() -> None:
    other = {"CVE-2025-69872": EXPLAINED["CVE-2025-69872"] | {"package": "packaging"}}
    finding, unused = audit.faults(FOUND, PINS, other, TODAY)
    assert finding.startswith("diskcache 5.6.3: GHSA-0000-0000-0000, mended by no release")
    assert unused.endswith("nothing that is installed has it any more; remove the entry")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"date": dt.date(2026, 6, 23)}, "its date is 2026-06-23; look again whether the reason holds"),
        ({"date": dt.date(2026, 12, 25)}, "its date is 2026-12-25; look again whether the reason holds"),
        ({"date": "2026-11-30"}, "date must be a date, as in 2026-11-30"),
        ({"reason": " "}, "date must be a date, as in 2026-11-30, and reason must say something"),
        ({"until": 2027}, "until: an entry has package, date and reason, and nothing else"),
    ],
)
def test_an_explanation_that_is_old_or_incomplete_fails(change: dict[str, Any], words: str) -> None:
    said = {"CVE-2025-69872": EXPLAINED["CVE-2025-69872"] | change}
    (line,) = audit.faults(FOUND, PINS, said, TODAY)
    assert line.startswith(f"vulnerabilities.toml: CVE-2025-69872: {words}")


def test_an_explanation_of_nothing_fails() -> None:
    report = copy.deepcopy(FOUND)
    report["dependencies"][0]["vulns"] = []
    (line,) = audit.faults(report, PINS, EXPLAINED, TODAY)
    assert line.endswith("CVE-2025-69872: nothing that is installed has it any more; remove the entry")


def test_what_is_locked_goes_by_the_markers_of_the_python_that_asks() -> None:
    text = (
        "--only-binary :all:\na==1 \\\n    --hash=sha256:00\n"
        "b-c==2 ; python_version < '3.12' \\\n    --hash=sha256:01\n"
    )
    assert audit.locked(text, {"python_version": "3.11"}) == {"a": "1", "b-c": "2"}
    assert audit.locked(text, {"python_version": "3.13"}) == {"a": "1"}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("cat >\"$output\" <<<'REPORT'", "locked packages were not looked up"),
        ("echo 'no such host' >&2; exit 1", "audit: pip-audit wrote no report, so nothing is known: no such host"),
    ],
)
def test_without_an_answer_the_command_fails_whatever_pip_audit_exits_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, words: str
) -> None:
    program = tmp_path / "pip-audit"
    output = 'for word in "$@"; do case $word in --output=*) output=${word#*=};; esac; done'
    program.write_text(f"#!/usr/bin/env bash\n{output}\n{script.replace('REPORT', json.dumps(RECORDED))}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert audit.main(str(program)) == 1
    assert words in capsys.readouterr().err


def test_every_shipped_explanation_is_complete() -> None:
    shipped = tomllib.loads((ROOT / "vulnerabilities.toml").read_text(encoding="utf-8"))
    pins = audit.locked((ROOT / "requirements-dev.lock").read_text(encoding="utf-8"))
    for key, said in shipped.items():
        assert audit._doubts(said, said["date"]) == [], key
        assert said["package"] in pins, f"{key}: {said['package']} is not installed any more; remove the entry"
