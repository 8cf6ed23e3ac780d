"""Libraries that an installation may lack, and the extra of the package that brings each.

The base installation answers for images with an exported model. Extras bring what other work needs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pkgutil import resolve_name

from thaw import DISTRIBUTION
from thaw.errors import MissingLibraryError

LIBRARIES = {
    "serve": ("fastapi", "uvicorn"),
    "parquet": ("pyarrow",),
    "heic": ("pillow_heif",),
    "dicom": ("pydicom",),
    "fsspec": ("fsspec",),
    "sample": ("elpv_dataset",),
    "sweep": ("optuna",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "registry": (),
    "s3": (),
    "ssh": (),
    "train": (
        "dvc", "huggingface_hub", "jinja2", "markupsafe", "onnx", "onnx2pytorch", "onnxscript", "pandas",
        "psutil", "safetensors", "scipy", "threadpoolctl", "timm", "torch", "torchvision",
    ),
}  # fmt: skip
"""What each extra is named for: the modules that we import from it."""


@contextmanager
def named() -> Iterator[None]:
    """Within, a library that is not installed is named together with its extra. Raises: MissingLibraryError."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        for extra, libraries in LIBRARIES.items():
            if library in libraries:
                raise MissingLibraryError(
                    f"{library} is not installed; run `pip install '{DISTRIBUTION}[{extra}]'`, in a clone of Thaw "
                    "`make install`"
                ) from error
        raise


def attribute(home: str) -> object:
    """Return the object that `module:name` names, and import its module. Raises: MissingLibraryError."""
    with named():
        return resolve_name(home)
