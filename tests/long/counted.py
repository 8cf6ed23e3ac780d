"""`python` as DVC finds it on PATH in the story: writes down which stage runs for which inputs, then runs it.

    python counted.py LOG PROGRAM ARGUMENT...

The inputs are known from dvc.lock, in which DVC has the hash of whatever the stages before have written. No test here.
"""

import fcntl
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def inputs_of(stage: str, key: str | None) -> dict[str, Any]:
    """Return what a stage depends on in the current folder: hashes by path, values by key of params.yaml."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    entry = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    body = entry.get("do", entry)
    known = {"key": key, "item": params["unfreeze"]["phases"].get(key, {})} if key else {}

    def filled(text: str) -> str:
        return re.sub(r"\$\{([\w.]+)\}", lambda found: str(_at({**params, **known}, found[1])), text)

    phases = {f"models/phases/{name}" for name in ("head", *params["unfreeze"]["phases"])}
    return {
        **{dep: list(_hashes(dep, phases)) for dep in map(filled, body.get("deps", []))},
        **{name: _at(params, name) for name in map(filled, body.get("params", []))},
    }


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _hashes(dep: str, phases: set[str]) -> Iterator[str]:
    """Yield the hash of each out that is the path, lies in it, or has it; else that of the file itself."""
    stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"] if Path("dvc.lock").exists() else {}
    outs = {out["path"]: out["md5"] for entry in stages.values() for out in entry.get("outs", [])}
    if tracked := Path(f"{dep}.dvc").exists():
        yield str(yaml.safe_load(Path(f"{dep}.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"])
    inside = {path for path in outs if path.startswith(f"{dep}/")}
    found = {path for path in outs if path == dep or dep.startswith(f"{path}/")} | inside
    for path in sorted(found):
        if not path.startswith("models/phases/") or path in phases:
            yield f"{path} {outs[path]}"
    if not found and not tracked and Path(dep).is_file():
        yield hashlib.sha256(Path(dep).read_bytes()).hexdigest()


def main() -> None:
    """Write a line of JSON, and become the program."""
    log, program, *words = sys.argv[1:]
    if words[:1] == ["-m"] and words[1].startswith("stages."):
        stage, key = words[1].removeprefix("stages."), words[2] if len(words) > 2 else None
        # .dvc/config names the remote: the same stage of a project that shares none cannot find what it has left.
        inputs = {**inputs_of(stage, key), "remote": Path(".dvc/config").read_text(encoding="utf-8")}
        line = json.dumps({"stage": f"{stage}@{key}" if key else stage, "inputs": inputs}, default=str)
        with Path(log).open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{line}\n")
    os.execv(program, [program, *words])


if __name__ == "__main__":
    main()
