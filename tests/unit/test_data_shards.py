"""Which image lies in which shard: what was there stays, whatever is added."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_data_packed import noise, write_packed
from thaw.data import shards
from thaw.pipeline import artifacts, dvc_cache

NAMES = st.lists(st.integers(0, 60).map(str), unique=True, max_size=40)


@given(NAMES, NAMES, st.integers(1, 9), st.data())
def test_every_image_is_in_one_shard_and_whole_shards_stay_as_they_were(
    before: list[str], now: list[str], most: int, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(before))), max_size=5)))
    earlier = [part.tolist() for part in np.split(np.array(before, object), cuts) if len(part)]
    found = shards.compose(now, earlier, most)
    assert sorted(np.concatenate([*found, np.zeros(0, np.int64)]).tolist()) == list(range(len(now)))
    assert all(0 < len(shard) <= most for shard in found)
    whole = [shard for shard in earlier if len(shard) <= most and set(shard) <= set(now)]
    assert [[now[row] for row in shard] for shard in found[: len(whole)]] == whole
    stayed = {name for shard in whole for name in shard}
    new = [row for row, name in enumerate(now) if name not in stayed]
    assert [shard.tolist() for shard in found[len(whole) :]] == [new[at : at + most] for at in range(0, len(new), most)]


def test_many_small_shards_are_packed_together() -> None:
    names = [str(number) for number in range(37)]
    earlier = [names[:20], *([name] for name in names[20:])]
    kept, new = shards.compose(names, earlier, 20)
    assert kept.tolist() == list(range(20))
    assert new.tolist() == list(range(20, 37))
    assert len(shards.compose(names[:-1], earlier[:-1], 20)) == 17


def in_cache(root: Path, folder: Path) -> None:
    """Write a folder into DVC's cache, and a dvc.lock that names it."""
    listed: list[dict[str, str]] = []
    for path in sorted(folder.iterdir()):
        md5 = f"{len(listed):032x}"
        _put(root, md5, path.read_bytes())
        listed.append({"md5": md5, "relpath": path.name})
    _put(root, "ff" + "0" * 30 + ".dir", json.dumps(listed).encode())
    entry = {"path": "data/prepared", "hash": "md5", "md5": "ff" + "0" * 30 + ".dir"}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"prepare": {"outs": [entry]}}}))


def _put(root: Path, md5: str, data: bytes) -> None:
    path = root / "files" / "md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with DVC's settings, whose cache is `elsewhere`."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = a\n['remote \"a\"']\n    url = /tmp\n")
    (tmp_path / ".dvc" / "config.local").write_text("[cache]\n    dir = ../elsewhere\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shards_that_dvc_lock_names_are_found_in_the_cache_and_packed_as_they_were(project: Path) -> None:
    pixels = noise(5, 1)
    write_packed(project / "p", pixels[:3], [0, 1, 2])
    in_cache(project / "elsewhere", project / "p")
    (project / "elsewhere" / "dvc.lock").rename(project / "dvc.lock")
    before = shards.before("prepare", "data/prepared")
    assert before == [[f"{row:016x}" for row in range(3)]]

    now = write_packed(
        project / "q", [pixels[3], *pixels[:3], pixels[4]], [0, 1, 2, 3, 4], ids=[9, 0, 1, 2, 8], before=before
    )
    assert np.array_equal(now.read(np.arange(5)), np.stack([pixels[3], *pixels[:3], pixels[4]]))
    assert np.array_equal(now.read(np.array([4, 1])), np.stack([pixels[4], pixels[0]]))
    assert (project / "q" / "images-00000.npy").read_bytes() == (project / "p" / "images-00000.npy").read_bytes()

    in_cache(project / "elsewhere", project / "q")
    (project / "elsewhere" / "dvc.lock").replace(project / "dvc.lock")
    assert shards.before("prepare", "data/prepared") == [before[0], [f"{9:016x}", f"{8:016x}"]]


def test_shards_stay_where_only_the_settings_of_a_user_name_the_cache(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".dvc" / "config.local").unlink()
    (project / "home").mkdir()
    (project / "home" / "config").write_text(f"[cache]\n    dir = {project / 'elsewhere'}\n")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(project / "home"))
    write_packed(project / "p", noise(3, 1), [0, 1, 2])
    in_cache(project / "elsewhere", project / "p")
    (project / "elsewhere" / "dvc.lock").rename(project / "dvc.lock")
    assert shards.before("prepare", "data/prepared") == [[f"{row:016x}" for row in range(3)]]


@pytest.mark.parametrize("what", ["dvc.lock", "elsewhere/files/md5/00", "elsewhere/files/md5/ff", ".dvc"])
def test_without_the_cache_or_dvc_lock_nothing_is_known_of_earlier_shards(project: Path, what: str) -> None:
    write_packed(project / "p", noise(3, 1), [0, 1, 2])
    in_cache(project / "elsewhere", project / "p")
    (project / "elsewhere" / "dvc.lock").rename(project / "dvc.lock")
    artifacts.remove(project / what)
    assert shards.before("prepare", "data/prepared") == []


@pytest.mark.parametrize("text", ["", "[", "stages: {}", "stages: {prepare: {outs: [{path: data/prepared}]}}"])
def test_a_torn_dvc_lock_names_no_files(project: Path, text: str) -> None:
    (project / "dvc.lock").write_text(text)
    assert dvc_cache.files_of("prepare", "data/prepared") is None


def test_places_that_are_no_order_of_the_images_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / shards.PLACES, np.array([0, 2, 2]))
    with pytest.raises(ValueError, match="no order of 3 images"):
        shards.read_places(tmp_path, 3)


def test_a_table_of_another_version_is_no_earlier_data_set(project: Path) -> None:
    (project / "p").mkdir()
    pd.DataFrame({"name": ["a"]}).to_csv(project / "p" / "samples.csv")
    in_cache(project / "elsewhere", project / "p")
    (project / "elsewhere" / "dvc.lock").rename(project / "dvc.lock")
    assert shards.before("prepare", "data/prepared") == []
