"""The shipped params, unchanged, on images that they were not chosen on: scikit-learn's 1,797 handwritten digits.

    python -m bench.foreign

They are 8 by 8 grey pixels, far from photographs, and a mirrored digit is another sign or none: does the pipeline find
out which flips are harmful, does unfreezing help, and does `select` keep the right phase? The real `dvc repro` in a
clone of the last commit, about 9 minutes; a result at the same params is read back from .thaw/bench/.
"""

from pathlib import Path

from bench import _sets, _tools
from thaw.config.reader import read_tree

_FOLDER = "data/digits"


def main() -> None:
    """Run the pipeline and print one JSON line: test accuracy of the head and of each phase, and which was kept."""
    tree = read_tree(Path("params.yaml"))
    tree |= {"data": {"raw": _FOLDER, "labels": _FOLDER}}
    _tools.report(
        "foreign",
        lambda: _tools.pipeline("foreign", tree, furnish=lambda clone: _sets.write("digits", clone / _FOLDER)),
    )


if __name__ == "__main__":
    main()
