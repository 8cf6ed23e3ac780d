"""Lay out the elpv-dataset package as a data set. Run by `dvc repro`, or `python -m stages.sample`."""

from thaw.data import sample
from thaw.pipeline import guard

SECTIONS = ()
INPUTS = ()
OUTS = ("data/sample/images", "data/sample/manifest.csv", "data/sample/LICENSE.txt")


def main() -> None:
    """Write 2,624 images of solar cells, a folder per class, a manifest with soft labels, and their licence."""
    with guard.stage("sample", sections=SECTIONS, inputs=INPUTS, outs=OUTS):
        sample.lay_out(*OUTS)


if __name__ == "__main__":
    guard.main(main)
