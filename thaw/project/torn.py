"""Files of DVC that a kill or a full disk leaves half-written, on which every later command fails: which, and why.

DVC 3.67.1 writes dvc.lock, .dvc files and .dvc/tmp/rwlock in place. It refuses an empty dvc.lock for ever, without a
word on what to do, and likewise a torn rwlock, in which running commands note what they read and write.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from thaw.errors import ArtifactError

RWLOCK = Path(".dvc", "tmp", "rwlock")
_LOCKS = ("dvc.lock", "data/sample/dvc.lock")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 5 ms per dvc.lock of ten stages; in Python 35 ms
_SHORT = 2  # characters that are no hash to DVC
_KINDS = ("deps", "outs")
_WRITING_S = 0.3  # a DVC that is at work writes its rwlock in less


def check(root: Path) -> None:
    """Raises: ArtifactError with a line for each torn file, which leads to `thaw doctor`."""
    lines = [
        f"{path} {reason}; `thaw doctor` says what is lost, and mends it with --fix" for path, reason in found(root)
    ]
    if lines:
        raise ArtifactError("\n".join(lines))


def found(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each torn file of DVC, as a path from the project's folder, and what is wrong with it."""
    tracking = sorted(path.relative_to(root).as_posix() for path in [*root.glob("*.dvc"), *root.glob("data/*.dvc")])
    for name in (*_LOCKS, *(name for name in tracking if (root / name).is_file())):
        if (root / name).is_file() and (reason := of_text((root / name).read_bytes(), name)) is not None:
            yield Path(name), reason
    if _rwlock(root) is not None:
        time.sleep(_WRITING_S)
        if (reason := _rwlock(root)) is not None:
            yield RWLOCK, reason


def of_text(content: bytes, name: str) -> str | None:
    """Return why the bytes of a dvc.lock or a .dvc file are not what DVC wrote; None if they may be."""
    if not content.strip():
        return "is empty"
    if any(line.startswith((b"<<<<<<< ", b">>>>>>> ")) for line in content.splitlines()):
        return None  # a conflict of git: nothing is torn, and DVC names the line
    try:
        tree: Any = yaml.load(content, Loader=_Loader)  # noqa: S506, a safe loader
    except (yaml.YAMLError, ValueError):
        return "is cut short, or no YAML"
    if not name.endswith(".lock"):
        return None if _has_outs(tree) else "is cut short: it names no out"
    return None if _is_lock(tree) else "is cut short: it is not what DVC writes"


def _has_outs(tree: Any) -> bool:
    outs = tree.get("outs") if isinstance(tree, dict) else None
    return isinstance(outs, list) and all(isinstance(out, dict) and _is_out(out) for out in outs)


def _is_out(out: dict[str, Any]) -> bool:
    """Tell a path with what DVC knows of it; it takes a hash of two characters for none."""
    known = [value for key, value in out.items() if key != "md5"]
    return isinstance(out.get("path"), str) and len(str(out.get("md5"))) > _SHORT and None not in known


def _is_lock(tree: Any) -> bool:
    """Tell what DVC takes for a lock: a schema, and for each stage a command and lists of deps and outs."""
    if not isinstance(tree, dict) or tree.get("schema") != "2.0":
        return False
    stages = tree.get("stages", {})
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        return False
    return all(
        isinstance(stage.get("cmd"), str | list)
        and all(_has_outs({"outs": stage.get(kind, [])}) for kind in _KINDS)
        and isinstance(params := stage.get("params", {}), dict)
        and all(isinstance(values, dict) for values in params.values())
        for stage in stages.values()
    )


def _rwlock(root: Path) -> str | None:
    try:
        held = json.loads((root / RWLOCK).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:  # no text, or no JSON
        return "is cut short"
    return None if isinstance(held, dict) else "is not what DVC writes"
