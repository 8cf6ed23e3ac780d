"""The real stage prepare in a folder of its own, and what it left there."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from stages import prepare as stage
from thaw.config.reader import read_tree
from thaw.data.packed import PackedImages
from thaw.errors import ThawError
from thaw.pipeline import facts
from thaw.pipeline.data_facts import Audit

ROOT = Path(__file__).resolve().parents[2]


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def prepare(pets: Path, **environment: str) -> tuple[int, str]:
    """Run the real stage and return its exit code and the last line of stderr; in this process where that is enough."""
    if not environment:
        with contextlib.chdir(pets):
            try:
                stage.main()
            except ThawError as error:
                return 1, str(error)
        return 0, ""
    done = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        cwd=pets,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


def change(pets: Path, section: str, **values: object) -> None:
    params = read_tree(pets / "params.yaml")
    params[section] |= values
    (pets / "params.yaml").write_text(yaml.safe_dump(params))


def samples(pets: Path) -> pd.DataFrame:
    return PackedImages.open(pets / "data" / "prepared").samples


def audit(pets: Path) -> Audit:
    return facts.read(pets / "data" / "prepared" / "audit.json", Audit)


def rejected(pets: Path) -> dict[str, str]:
    table = pd.read_csv(pets / "data" / "prepared" / "rejected.csv")
    return dict(zip(table["path"], table["reason"], strict=True))


def refused(pets: Path) -> str:
    """Return the one line of a run that must fail and leave nothing behind."""
    code, line = prepare(pets)
    assert code == 1, line
    assert [path.name for path in (pets / "data").iterdir()] == ["code"]
    return line
