"""Which column of a table of images is which: as they are called, or as `data.columns` says, and never by a guess."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from thaw.errors import DataError

COLUMNS = ("path", "label", "split", "group", "confidence")
NEEDED = ("path", "label")
# How people call these columns, without blanks, capitals, hyphens and underscores.
_ALSO = {
    "path": "file files filename filenames filepath filepaths image images imagefile imagename imagepath imageid img "
    "imgid imgname imgpath id photo picture name",
    "label": "labels class classes classname classid category categories categoryid target targets tag tags y truth "
    "groundtruth species breed diagnosis",
    "split": "splits subset subsets set fold folds partition phase usage isvalid isval valid validation istest istrain "
    "traintest trainval",
    "group": "groups groupid patient patients patientid subject subjects subjectid person personid user userid case "
    "caseid video videoid clip clipid slide slideid sequence sequenceid series seriesid study studyid session "
    "sessionid",
    "confidence": "weight weights sampleweight probability certainty agreement",
}
_LIKE = {name: ours for ours, names in _ALSO.items() for name in [ours, *names.split()]}
_SILENT = ("path",)  # a second name of an image decides nothing
_CLOSE = 0.7


def assign(
    names: Sequence[str], asked: Mapping[str, str], ignored: Sequence[str], source: Path
) -> tuple[dict[str, str], list[str]]:
    """Return the table's name of each of our columns that it has, and a line on the columns that are not used.

    Raises: DataError if a column that is asked for or needed is missing, or if one is left that is named like a split,
    a label, a group or a weight; all such columns in one line, with the setting that mends it.
    """
    if missing := sorted({*asked.values(), *ignored} - set(names)):
        raise DataError(
            f"{source} has no column {' and no column '.join(map(repr, missing))}, which data.columns or "
            f"data.ignore_columns names; it has {', '.join(map(repr, names))}"
        )
    used = {ours: asked.get(ours, ours) for ours in COLUMNS if asked.get(ours, ours) in names}
    left = [name for name in names if name not in used.values() and name not in ignored]
    if missing := [ours for ours in NEEDED if ours not in used]:
        raise DataError(_about_missing(missing, left, source))
    if doubtful := {name: ours for name in left if (ours := like(name)) and ours not in _SILENT}:
        shown = ", ".join(f"{name!r} (like {ours})" for name, ours in doubtful.items())
        free = {ours: name for name, ours in reversed(doubtful.items()) if ours not in used}
        mapped = f"map what is to be used (data.columns: {_as_yaml(free)}), and " if free else ""
        what = "column" if len(doubtful) == 1 else "columns"
        raise DataError(
            f"{source}: {what} {shown} would have no effect; {mapped}name what is not in data.ignore_columns: "
            f"[{', '.join(doubtful)}]"
        )
    unused = [*left, *ignored]
    return used, [f"{source}: columns not used: {', '.join(unused)}"] if unused else []


def like(name: str) -> str | None:
    """Return which of our columns another name may stand for; None if it looks like none."""
    plain = re.sub(r"[\s_\-]+", "", name).casefold()
    if found := _LIKE.get(plain):
        return found
    close = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=_CLOSE)
    return close[0] if close else None


def _about_missing(missing: Sequence[str], left: Sequence[str], source: Path) -> str:
    lacks = f"{source} has no column {' and no column '.join(missing)}"
    candidates = {ours: [name for name in left if like(name) == ours] for ours in missing}
    if all(candidates.values()):
        found = {ours: names[0] for ours, names in candidates.items()}
        several = [f"{ours} may also be {', '.join(names[1:])}" for ours, names in candidates.items() if len(names) > 1]
        return f"{lacks}; say which it is: data.columns: {_as_yaml(found)}" + "".join(f" ({line})" for line in several)
    header = ", ".join(map(repr, left)) or "nothing more"
    return (
        f"{lacks}; it needs path,label in its first line, or data.columns that says what they are called (its first "
        f"line has {header})"
    )


def _as_yaml(mapping: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{ours}: {name}" for ours, name in mapping.items()) + "}"
