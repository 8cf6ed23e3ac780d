"""The sample data set: 2,624 electroluminescence images of solar cells, from the package elpv-dataset.

An image is `defective` if the experts' defect probability is above 0.5; the package knows 0, 1/3, 2/3 and 1.
"""

import importlib.util
import shutil
from pathlib import Path

import pandas as pd

from thaw.errors import DataError
from thaw.pipeline import artifacts, tables

NUM_IMAGES = 2624
NUM_DEFECTIVE = 821

LICENCE = """\
The images in this folder are the ELPV data set: electroluminescence images of functional and defective solar cells,
cut out of photos of 44 photovoltaic modules. They were published by Claudia Buerhop-Lutz, Sergiu Deitsch and co-authors
(ZAE Bayern and Friedrich-Alexander-Universitaet Erlangen-Nuernberg) and are taken unchanged from the Python package
elpv-dataset, https://github.com/zae-bayern/elpv-dataset. Only their arrangement in folders and the file manifest.csv,
derived from the package's labels, are ours.

They are licensed under Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0),
https://creativecommons.org/licenses/by-nc-sa/4.0/. In short: you may copy and adapt them for purposes that are not
commercial, if you name the authors and pass your adaptations on under the same licence. The licence's own text decides.
For commercial use ask the authors. Thaw's own licence does not extend to these images.

Please cite:

- C. Buerhop-Lutz, S. Deitsch, A. Maier, F. Gallwitz, S. Berger, B. Doll, J. Hauch, C. Camus, C. J. Brabec: A Benchmark
  for Visual Identification of Defective Solar Cells in Electroluminescence Imagery. EU PVSEC 2018.
  doi:10.4229/35thEUPVSEC20182018-5CV.3.15
- S. Deitsch, V. Christlein, S. Berger, C. Buerhop-Lutz, A. Maier, F. Gallwitz, C. Riess: Automatic classification of
  defective photovoltaic module cells in electroluminescence images. Solar Energy 185, 455-468, 2019.
  doi:10.1016/j.solener.2019.02.067
- S. Deitsch, C. Buerhop-Lutz, E. Sovetkin, A. Steland, A. Maier, F. Gallwitz, C. Riess: Segmentation of photovoltaic
  module cells in uncalibrated electroluminescence images. Machine Vision and Applications 32(4), 2021.
  doi:10.1007/s00138-021-01191-9
"""


def lay_out(images: str, manifest: str, licence: str) -> None:
    """Copy the package's images to `images`/CLASS/, and write the manifest (path, label, confidence) and the licence.

    Raises: DataError if the package is missing or does not hold what it should.
    """
    source = package_data()
    table = read_labels(source / "labels.csv")
    partial = Path(images).with_name(f".{Path(images).name}.partial")
    artifacts.remove(partial)
    try:
        for path, label in zip(table["file"], table["label"], strict=True):
            (partial / label).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, partial / label / Path(path).name)
        artifacts.remove(Path(images))
        partial.rename(images)
    finally:
        artifacts.remove(partial)
    names = table["file"].map(lambda path: Path(path).name)
    table = table.assign(path=Path(images).name + "/" + table["label"] + "/" + names).sort_values("path")
    tables.write(Path(manifest), table[["path", "label", "confidence"]])
    artifacts.write_text(Path(licence), LICENCE)


def package_data() -> Path:
    """Return the package's folder of images and labels. Raises: DataError if it is not installed."""
    # Found without importing it: the package's import would load what this stage does not need.
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the package elpv-dataset is not installed; run `pip install -r requirements.txt`")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_labels(path: Path) -> pd.DataFrame:
    """Return file, probability (of a defect), type (mono or poly), label and confidence of each image.

    Raises: DataError if labels or images are not those of the version that Thaw requires.
    """
    try:
        table = pd.read_csv(path, sep=r"\s+", names=["file", "probability", "type"])
    except OSError:
        raise DataError(f"{path} is missing; run `pip install --force-reinstall elpv-dataset`") from None
    table["label"] = (table["probability"] > 0.5).map({True: "defective", False: "functional"})
    table["confidence"] = table["probability"].where(table["probability"] > 0.5, 1 - table["probability"])
    num_present = sum((path.parent / name).is_file() for name in table["file"])
    num_defective = int((table["label"] == "defective").sum())
    if (len(table), num_present, num_defective) != (NUM_IMAGES, NUM_IMAGES, NUM_DEFECTIVE):
        raise DataError(
            f"elpv-dataset has {len(table)} labels, {num_present} images and {num_defective} defective cells; expected "
            f"are {NUM_IMAGES}, {NUM_IMAGES} and {NUM_DEFECTIVE}; install the version that requirements.txt names"
        )
    return table
