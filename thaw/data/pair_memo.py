"""What pairs of looks have in common, kept from run to run: comparing a pair takes milliseconds, and never changes."""

import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.data.candidates import Floats, Pairs
from thaw.pipeline import artifacts

_KEY = ["first", "second", "orientation"]


class PairMemo:
    """Rows of numbers for pairs of images, by their contents and the orientation of the first."""

    def __init__(self, folder: Path | None, sha256: Sequence[str]) -> None:
        """Take the folder to keep them in, None for nowhere, and the SHA-256 [images] of the images of this run."""
        self._folder = folder
        # 64 of 256 bits: among a million images two have the same in 1 of 37 million cases.
        self._contents = np.array([int(name[:16], 16) for name in sha256], np.uint64)

    def values(self, name: str, pairs: Pairs, width: int, compute: Callable[[NDArray[np.int64]], Floats]) -> Floats:
        """Return the numbers [pairs, width] of pairs; `compute` returns those of some positions that are not known.

        Those of these pairs are kept for the next run, and no others.
        """
        keys = pd.DataFrame(
            {
                "first": self._contents[pairs.first],
                "second": self._contents[pairs.second],
                "orientation": pairs.orientation,
            }
        )
        known = self._read(name, width)
        place = keys.merge(known[_KEY].assign(place=np.arange(len(known))), how="left", on=_KEY)["place"].to_numpy()
        fresh = np.isnan(place.astype(np.float64))
        found = np.empty((len(pairs), width), np.float32)
        found[~fresh] = known.drop(columns=_KEY).to_numpy(np.float32)[place[~fresh].astype(np.int64)]
        missing = np.flatnonzero(fresh)
        found[missing] = compute(missing)
        self._write(name, keys, found)
        return found

    def _read(self, name: str, width: int) -> pd.DataFrame:
        columns = [*_KEY, *map(str, range(width))]
        if self._folder is not None and (path := self._folder / f"{name}.npz").exists():
            with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # damaged: its CRC-32 says so
                stored = np.load(path, allow_pickle=False)
                numbers = stored["numbers"]
                if numbers.shape[1:] == (width,):
                    keys = pd.DataFrame({key: stored[key] for key in _KEY})
                    values = pd.DataFrame(numbers, columns=columns[len(_KEY) :])
                    return pd.concat([keys, values], axis=1).drop_duplicates(_KEY, ignore_index=True)
        return pd.DataFrame({key: np.zeros(0, np.uint64 if key != "orientation" else np.int64) for key in _KEY}).assign(
            **dict.fromkeys(columns[len(_KEY) :], np.zeros(0, np.float32))
        )

    def _write(self, name: str, keys: pd.DataFrame, numbers: Floats) -> None:
        if self._folder is None:
            return
        with artifacts.new_file(self._folder / f"{name}.npz") as partial, partial.open("wb") as file:
            first, second, orientation = (keys[key].to_numpy() for key in _KEY)
            np.savez(file, numbers=numbers, first=first, second=second, orientation=orientation)
