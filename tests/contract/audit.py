"""Known vulnerabilities of what requirements-dev.lock installs: `make audit`. Needs the network; no test here.

    python -m tests.contract.audit PIP_AUDIT

pip-audit ends with 0 also if it found no package in its data base, so its exit code says nothing. Here its report is
read: every locked package must be in it with the locked version, and every finding must be explained in
vulnerabilities.toml. Exit code 1, and a line for each fault, otherwise.
"""

import datetime as dt
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.repository import ROOT

LOCK, EXPLAINED = ROOT / "requirements-dev.lock", ROOT / "vulnerabilities.toml"
MAX_AGE_DAYS = 183
"""How long an explanation holds: after half a year somebody must look whether there is a release without the flaw."""


def locked(text: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the versions that a lock file installs by distribution, for this Python or for another environment.

    `environment` has values for markers, such as {"python_version": "3.13"}.
    """
    lines = re.findall(r"^([a-z0-9][^\\\n]*)", text, re.MULTILINE)
    found = [Requirement(line.strip()) for line in lines]
    here = dict(environment or {})
    return {
        canonicalize_name(entry.name): str(entry.specifier).removeprefix("==")
        for entry in found
        if entry.marker is None or entry.marker.evaluate(here)
    }


def faults(report: Any, pins: Mapping[str, str], explained: Mapping[str, Any], today: dt.date) -> list[str]:
    """Return what is wrong with a report of pip-audit (its format json), a line each; none if the gate is open.

    `pins` are the locked versions by distribution, `explained` are the tables of vulnerabilities.toml by identifier.
    """
    entries: dict[str, Any] = {canonicalize_name(entry["name"]): entry for entry in report["dependencies"]}
    unknown = sorted(name for name, version in pins.items() if entries.get(name, {}).get("version") != version)
    lines = []
    if unknown:
        why = entries.get(unknown[0], {}).get("skip_reason", "it is not in the report with that version")
        lines.append(f"{len(unknown)} of {len(pins)} locked packages were not looked up, such as {unknown[0]}: {why}")
    used = set()
    for name, entry in entries.items():
        for flaw in entry.get("vulns", []):
            names = {flaw["id"], *flaw.get("aliases", [])} & {
                key for key, said in explained.items() if said.get("package") == name
            }
            used |= names
            if not names:
                fixed = ", ".join(flaw["fix_versions"]) or "no release"
                lines.append(
                    f"{name} {entry['version']}: {flaw['id']}, mended by {fixed}; take that, or say in "
                    f"{EXPLAINED.name} why it does no harm here"
                )
    for key, said in explained.items():
        lines += [f"{EXPLAINED.name}: {key}: {line}" for line in _doubts(said, today)]
        if not unknown and key not in used:
            lines.append(f"{EXPLAINED.name}: {key}: nothing that is installed has it any more; remove the entry")
    return lines


def _doubts(said: Mapping[str, Any], today: dt.date) -> list[str]:
    """Return what is wrong with an explanation."""
    wrong = sorted({"package", "date", "reason"} ^ set(said))
    if wrong:
        return [f"{', '.join(wrong)}: an entry has package, date and reason, and nothing else"]
    if type(said["date"]) is not dt.date or not str(said["reason"]).strip():
        return ["date must be a date, as in 2026-11-30, and reason must say something"]
    age = (today - said["date"]).days
    if not 0 <= age <= MAX_AGE_DAYS:
        return [f"its date is {said['date']}; look again whether the reason holds, and give today's date"]
    return []


def main(program: str) -> int:
    """Run pip-audit over the lock file, print what is wrong, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "report.json")
        command = [program, "--requirement", str(LOCK), "--disable-pip", "--require-hashes", "--progress-spinner=off"]
        command += ["--format=json", "--aliases=on", "--desc=off", f"--output={output}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if not output.exists() or not output.stat().st_size:
            said = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            print(f"audit: pip-audit wrote no report, so nothing is known: {said}", file=sys.stderr)
            return 1
        report = json.loads(output.read_text(encoding="utf-8"))
    pins = locked(LOCK.read_text(encoding="utf-8"))
    explained = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))
    lines = faults(report, pins, explained, dt.datetime.now(tz=dt.UTC).date())
    for line in lines:
        print(f"audit: {line}", file=sys.stderr)
    if not lines:
        print(f"audit: {len(pins)} packages looked up; {len(explained)} known vulnerabilities, all explained")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
