"""Tables are read back as they were written, whatever their texts look like."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.contract.repository import ROOT
from thaw.errors import ArtifactError
from thaw.pipeline import tables

LOOKS = [
    ["00000", "00001"], ["0.10", "0.20"], ["007", "7"], ["1e5", "100000"], ["True", "False"], ["NA", "null"],
    ["nan", ""], ["inf", "-inf"], ["0x10", "1_000"], ["2020-01-01", "None"],
]  # fmt: skip


@pytest.mark.parametrize("texts", LOOKS)
@pytest.mark.parametrize("column", sorted(tables.TEXT))
def test_text_is_read_back_as_text(texts: list[str], column: str, tmp_path: Path) -> None:
    table = pd.DataFrame({column: texts, "probability": [0.1 + 0.2, np.nan]})
    tables.write(tmp_path / "t.csv", table)
    found = tables.read(tmp_path / "t.csv")
    assert found[column].tolist() == texts
    assert found["probability"].tolist()[0] == 0.1 + 0.2
    assert np.isnan(found["probability"].tolist()[1])


def test_a_column_of_numbers_may_be_empty_and_a_table_may_have_no_rows(tmp_path: Path) -> None:
    tables.write(tmp_path / "t.csv", pd.DataFrame({"phase": ["1", "2"], "rate": [np.nan, np.nan], "chosen": [1, 0]}))
    found = tables.read(tmp_path / "t.csv")
    assert found["phase"].tolist() == ["1", "2"]
    assert found["rate"].isna().all()
    assert found["chosen"].sum() == 1
    tables.write(tmp_path / "t.csv", pd.DataFrame(columns=["series", "recall"]))
    assert tables.read(tmp_path / "t.csv").columns.tolist() == ["series", "recall"]


def test_a_column_of_text_that_is_not_listed_can_be_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="'colour'"):
        tables.write(tmp_path / "t.csv", pd.DataFrame({"colour": ["red"]}))
    (tmp_path / "t.csv").write_text("id,share\n7,many\n", encoding="utf-8")
    with pytest.raises(
        ArtifactError, match=r"t\.csv: column 'share' holds something else than numbers; run `dvc repro`"
    ):
        tables.read(tmp_path / "t.csv")


def test_nothing_else_in_the_library_reads_a_csv_but_what_reads_files_of_others() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in [*(ROOT / "thaw").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
        if re.search(r"read_csv|csv\.(reader|DictReader)", path.read_text(encoding="utf-8"))
    }
    # The user's manifest, labels and accepted images, all of them text, and the labels in the sample's package; the
    # doctor looks at the columns of a last line.
    assert found == {
        "thaw/pipeline/tables.py", "thaw/data/dialect.py", "thaw/data/sample.py", "thaw/data/accepted.py",
        "thaw/project/labels.py", "thaw/project/merging.py", "thaw/project/doctor.py",
    }  # fmt: skip


def strange_table() -> pd.DataFrame:
    names = ["a b", "a,b\n", "\"quoted'", "emoji 🙂", "é", "e\u0301", "\u2028", "\ufeff", "\x1a", "\t", "", "NA", "007"]
    return pd.DataFrame({"path": names, "share": [number / 3 for number in range(len(names))]})


def test_a_table_that_is_written_again_leaves_other_links_to_the_old_file_as_they_were(tmp_path: Path) -> None:
    path, cached = tmp_path / "predictions.csv", tmp_path / "object-in-the-cache"
    cached.write_text("old")
    cached.chmod(0o444)
    os.link(cached, path)
    tables.write(path, strange_table())
    assert cached.read_text() == "old"
    assert path.read_text(encoding="utf-8").startswith("path,share\n")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["object-in-the-cache", "predictions.csv"]


def test_a_table_has_the_bytes_that_pandas_writes_to_a_file_but_for_formulas(tmp_path: Path) -> None:
    plain = strange_table().query("path != '\t'")
    plain.to_csv(tmp_path / "pandas.csv", index=False, encoding="utf-8", lineterminator="\n")
    tables.write(tmp_path / "ours.csv", plain)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "pandas.csv").read_bytes()
