"""A tiny classifier, as `select` writes it and as `export` does; the export takes seconds, so it is made once.

Exports are made in a process of their own: a process in which torch has traced a network may lock up when it forks
later, as the engine does.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.unit.test_training_model import write_final
from thaw.export import files
from thaw.export.graph import ExportableClassifier
from thaw.pipeline import artifacts
from thaw.training import model

AUGMENT = {"flip": "horizontal", "tta": True, "accuracy": {}}


class Twins(NamedTuple):
    """One classifier, twice."""

    final: Path
    exported: Path


def whole_of(classifier: model.Model) -> ExportableClassifier:
    """Return a classifier as one network."""
    return ExportableClassifier(
        classifier.members,
        cut=classifier.facts.cut,
        size_px=classifier.facts.preprocessing.size_px,
        symmetries=classifier.symmetries,
        temperature=classifier.temperature,
        dtype=classifier.facts.preprocessing.pixel_type,
    )


def write_export(folder: Path, final: Path, *, torch_program: bool = True) -> Path:
    """Write a folder as `export` does from models/final, but for the card."""
    classifier = model.load(final)
    whole = whole_of(classifier)
    facts = files.describe(
        classifier.facts, classifier.backbone.spec, whole, fingerprint=classifier.fingerprint, license_="other"
    )
    with artifacts.new_folder(folder) as partial:
        files.write(partial, whole, facts, torch_program=torch_program)
    return folder


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Callable[..., Any]]:
    """What calls a function in another process and returns what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *given: pool.submit(function, *given).result()


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory, elsewhere: Callable[..., Any]) -> Twins:
    """A residual network that averages over a mirror image; no test changes its folders."""
    root = tmp_path_factory.mktemp("twins")
    final = write_final(root / "final", augment=AUGMENT, input_px=64)
    return Twins(final, elsewhere(write_export, root / "export", final))
