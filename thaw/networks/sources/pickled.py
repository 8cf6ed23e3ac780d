"""Read what torch.save wrote without running any code in it, whatever else a trainer put beside the weights.

A pickle is a program: it names classes and functions, and calls them. torch.load(weights_only=True) knows the names
that tensors need, and stops at any other. Here each other name gets a stand-in of ours, so nothing it means is imported
or run, and an object of a class becomes an empty mapping with its attributes. What calls a name is refused, unless the
name is in a list of types that trainers use for settings.
"""

import json
import pickletools
import re
import shlex
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from thaw.errors import BackboneError, first_line

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickle that begins a file of torch from before version 1.6: its magic number."""
_LEGACY_PICKLES = 4  # the magic number, the version, the machine, and then what was saved
_PROTOCOL = 2  # of pickles: what torch.save writes, and all that torch's restricted reader knows

# Types that settings, paths, times and numbers are kept in, by module. To call them would build such a value, no more.
_VALUES = {
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "functools": "partial",
    "copyreg": "_reconstructor",
    "re": "_compile",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "datetime": "date datetime time timedelta timezone",
    "builtins": "bool bytes dict float frozenset int list object range slice str tuple",
    "numpy": "ndarray",
    "numpy.core.multiarray": "scalar",
    "numpy._core.multiarray": "scalar",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    "numpy.random.bit_generator": "__pyx_unpickle_SeedSequence",
}
_PATHS = [
    f"pathlib{inside}.{system}Path"
    for inside in ("", "._local")  # the second since Python 3.13
    for system in ("Posix", "Windows", "PurePosix", "PureWindows", "", "Pure")
]
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_OF_TORCH = re.compile(
    r"_codecs\.encode|collections\.(OrderedDict|Counter)|builtins\.(bytearray|set|complex)|torch\.(strided|preserve_format|per_\w+|device|[a-z]+\d\w*|bool)|"
    r"torch\.(Size|Tensor|\w+Storage|_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|nn\.parameter\.Parameter)"
)  # names that torch's reader knows
_PICKLED_TENSOR = "torch.storage._load_from_bytes"  # how pickle.dump, without torch.save, writes a tensor
_BLOCKED = {"os", "posix", "nt", "sys"}  # modules whose names torch's reader refuses in any place
_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}  # those that torch has as well


@dataclass
class Unpickled:
    """What a file holds: mappings, lists, tensors and numbers; an object of another type is a mapping of nothing."""

    value: Any = None
    called: list[str] = field(default_factory=list)
    """Names that the file calls and that are not in the list, in order."""
    made: dict[int, tuple[str, object]] = field(default_factory=dict)
    """Objects of types that are not known here, by id, each with its type's name."""
    names: list[str] = field(default_factory=list)
    """Classes and functions that the file names, in order."""
    failed: str = ""
    """Why reading ended early, if it did."""

    @property
    def unknown(self) -> list[str]:
        """Names that neither torch's reader nor the list here knows."""
        return [name for name in self.names if name not in _ADMITTED and not _OF_TORCH.fullmatch(name)]

    def type_of(self, thing: object) -> str:
        """Return the name of the type that a mapping stands for; empty for a plain one."""
        return self.made.get(id(thing), ("", None))[0]


def read(path: Path) -> Unpickled:
    """Return what a file of torch.save holds; nothing that it names is imported or run.

    Raises: BackboneError if it calls what the interpreter's own modules have, such as os.system, or cannot be read.
    """
    names, protocol = names_in(path)
    check_names(path, [name for name in names.values() if name.partition(".")[0] in _BLOCKED])
    for kind in (OrderedDict, _Object):  # the first takes items, as a class of mappings wants, the second any state
        found = _read(path, names, kind)
        check_names(path, found.called)
        if not found.failed or found.called:
            return found
    check_names(path, found.unknown)
    if protocol > _PROTOCOL:
        raise BackboneError(
            f"{path} is written with pickle protocol {protocol}, and only {_PROTOCOL} is read without running code; "
            f"{conversion(path)}"
        )
    return found


def _read(path: Path, names: Mapping[str, str], kind: type) -> Unpickled:
    found = Unpickled(names=list(names.values()))
    stand_ins: list[Any] = [*_ADMITTED.values()]
    for given, name in names.items():
        stand_ins.append((_ADMITTED[name][0] if name in _ADMITTED else _stand_in(name, found, kind), given))
    try:
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            found.value = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged pickle leads its reader into any of Python's errors
        # torch's first line advises to read the file with code execution; what it found is behind this.
        found.failed = first_line(Exception(str(error).rpartition("WeightsUnpickler error: ")[2] or repr(error)))
    return found


_TRUST = "if you trust who wrote it, write the weights alone, which runs its code: "


def conversion(path: Path, inside: str = "") -> str:
    """Return the words that say how to write the weights alone; `inside` leads to them, in Python."""
    return _TRUST + command(path, f"{_loaded(path)}{inside}")


def conversion_of_parts(path: Path) -> str:
    """Return the words for a file of which nothing is known: networks in it become weights, settings are left out."""
    make = f"import torch; v = {_loaded(path)}; v = v if isinstance(v, dict) else dict(model=v)"
    parts = (
        '{k: p.state_dict() if hasattr(p, "state_dict") else p for k, p in v.items() if hasattr(p, "state_dict") or '
    )
    return _TRUST + command(path, parts + "isinstance(p, (dict, torch.Tensor))}", before=make)


def _loaded(path: Path) -> str:
    return f'torch.load({json.dumps(str(path))}, map_location="cpu", weights_only=False)'


def command(path: Path, weights: str, *, before: str = "import torch") -> str:
    """Return the line for a shell that writes weights, an expression in Python, beside a file."""
    target = path.with_name(f"{path.stem}-weights.pth")
    return f"python -c {shlex.quote(f'{before}; torch.save({weights}, {json.dumps(str(target))})')}"


def check_names(path: Path, names: Iterable[str]) -> None:
    """Raises: BackboneError if some of these names are functions of Python's own modules, which no weights need."""
    if hostile := [name for name in names if _is_of_python(name)]:
        raise BackboneError(
            f"{path} would call {some(hostile)} when it is opened, so it was not opened; weights need no such call: "
            "take them from a source that you trust, or save the state_dict() alone where they were trained"
        )


def _is_of_python(name: str) -> bool:
    """Tell whether a name is Python's own, or a function of torch or numpy, and none that values are made with."""
    package, attribute = name.partition(".")[0], name.rpartition(".")[2]
    is_function = package in ("torch", "numpy") and attribute.lstrip("_")[:1].islower()
    known = name in _ADMITTED or _OF_TORCH.fullmatch(name) is not None or name == _PICKLED_TENSOR
    return (package in sys.stdlib_module_names or is_function) and not known


def names_in(path: Path) -> tuple[dict[str, str], int]:
    """Return the classes and functions that a pickle names, in order, each with Python 3's name, and its protocol.

    Nothing is run. Raises: BackboneError if it is no whole pickle.
    """
    names: dict[str, str] = {}
    protocol = 0
    try:
        for name, argument in _operations(path):
            if name == "PROTO":
                protocol = max(protocol, int(argument))
            elif name == "GLOBAL":
                module, _, attribute = str(argument).partition(" ")
                name_today = _today(module, attribute)
                names |= {f"{module}.{attribute}": name_today, name_today: name_today}
    except Exception as error:  # noqa: BLE001 - pickletools raises what it runs into
        raise BackboneError(
            f"{path} is no whole file of torch ({first_line(error)}); bring it again from its source"
        ) from None
    return names, protocol


def array_as_tensor(value: object) -> Tensor | None:
    """Return the tensor of an array of numpy that a file holds; None for anything else."""
    return value.tensor if isinstance(value, _Array) else None


def _operations(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the operations of a pickle that name something; what protocol 4 keeps on its stack is named as GLOBAL."""
    texts: list[str] = []
    memo: dict[int, str | None] = {}
    with _Stream(path) as (stream, count):
        for code, argument, _ in chain.from_iterable(pickletools.genops(stream) for _ in range(count)):
            if code.name == "STACK_GLOBAL":
                yield "GLOBAL", " ".join(texts[-2:])
            elif "UNICODE" in code.name:
                texts.append(str(argument))
            elif code.name == "MEMOIZE":
                memo[len(memo)] = texts[-1] if texts else None
            elif "GET" in code.name:
                texts.append(memo.get(int(argument or 0)) or "")
            else:
                yield code.name, argument


class _Stream:
    """The stream of a file's pickle and how many pickles to read from it, as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[IO[bytes], int]:
        if zipfile.is_zipfile(self._path):
            with zipfile.ZipFile(self._path) as archive:
                inside = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                self._stream: IO[bytes] = archive.open(inside)
            return self._stream, 1
        self._stream = self._path.open("rb")
        is_legacy = self._stream.read(len(LEGACY)) == LEGACY
        self._stream.seek(0)
        return self._stream, _LEGACY_PICKLES if is_legacy else 1

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _today(module: str, attribute: str) -> str:
    """Return the name that Python 3 has for what Python 2, or a pickle that it should read, names."""
    if (module, attribute) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, attribute])
    return f"{IMPORT_MAPPING.get(module, module)}.{attribute}"


class _Named(type):
    """The type of stand-ins: a pickle that calls one is seen to."""

    name: str
    found: Unpickled

    def __call__(cls, *_: object) -> object:
        cls.found.called.append(cls.name)
        return OrderedDict()


def _stand_in(name: str, found: Unpickled, kind: type) -> Any:
    """Return what stands for a name: an object of it is an empty one of a kind of ours."""

    def made(_: type, *__: object) -> object:
        thing = kind()
        found.made[id(thing)] = (name, thing)
        return thing

    return _Named("StandIn", (), {"__new__": made, "name": name, "found": found})


class _Value:
    """Stands for a value of a type in the list, whatever it was made of."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _Object:
    """Stands for an object of a class that is not known here, with its attributes."""

    def __setstate__(self, state: object) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)


class _Type:
    """A dtype of numpy as a pickle has it: its code, such as f4, and the order of its bytes."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code, self.order = str(code), ""

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])


class _Array:
    """An array of numpy as a pickle has it."""

    def __init__(self, *_: object) -> None:
        self.tensor: Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, data = state
        if not isinstance(kind, _Type) or kind.code not in _NUMBERS or not isinstance(data, bytes):
            return
        array = np.frombuffer(data, np.dtype((kind.order if kind.order in "<>" else "") + kind.code))
        array = array.reshape(shape, order="F" if is_fortran else "C")
        self.tensor = torch.from_numpy(array.astype(kind.code, order="C"))


def _empty_dict(*_: object) -> dict[object, object]:
    return {}


def _as_list(items: Any = (), *_: object) -> list[object]:
    return [*items]


_ADMITTED: dict[str, tuple[Any, str]] = {
    **{f"{module}.{name}": (_Value, f"{module}.{name}") for module, names in _VALUES.items() for name in names.split()},
    **{name: (_Value, name) for name in _PATHS},
    "thaw.Object": (_Object, "thaw.Object"),  # torch's reader gives state to objects of types that it was told of
    **{name: (_Array, name) for name in _ARRAYS},
    "numpy.dtype": (_Type, "numpy.dtype"),
    "collections.defaultdict": (_empty_dict, "collections.defaultdict"),
    "collections.deque": (_as_list, "collections.deque"),
}


def some(names: Iterable[str]) -> str:
    """Return the first of some names, each once, and how many more there are."""
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
