"""The source code behind a stage: what it can import, and one fingerprint of that.

DVC does not follow imports. The stage `code` writes data/code/NAME.json for each stage: the files of the stage's import
closure with their SHA-256, and a digest over all. Every other stage has its own as a dep, so an edit reruns the stages
that can import the edited file, and no others. Paths begin with the package's name, so that equal sources have equal
fingerprints in a repository and in an installation.
"""

import ast
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from thaw import DISTRIBUTION
from thaw.errors import RunError
from thaw.pipeline import artifacts

STAGE = "code"
FOLDER = Path("data/code")
PACKAGES = ("thaw", "stages")
# Its number is part of no result: a release would rerun every stage that can import it, whatever else it changes.
VERSION = "thaw.version"
_PINNED = re.compile(rf"^{DISTRIBUTION}\s*(?:\[[^\]]*\])?\s*==\s*([^\s;#]+)", re.MULTILINE | re.IGNORECASE)
_NUM_NAMED = 3  # files that an error names


class Fingerprint(BaseModel):
    """The code that a stage can import."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stage: str
    """Name of the module in stages/."""
    digest: str
    """SHA-256 over `files`."""
    files: dict[str, str]
    """SHA-256 of each file by its path, sorted; a path begins with the package's name."""

    @classmethod
    def read(cls, path: Path) -> "Fingerprint":
        """Return the fingerprint in a file. Raises: RunError if it is missing or not one."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunError(f"{path} is missing; run `dvc repro {STAGE}`, which writes it") from None
        except ValidationError:
            raise RunError(f"{path} is no fingerprint of code; run `dvc repro --force {STAGE}`") from None


@dataclass(frozen=True)
class Code:
    """The modules of some packages."""

    folders: Mapping[str, Path]
    """Folder of each top-level package by its name."""

    @cached_property
    def modules(self) -> dict[str, Path]:
        """Path of every module by its dotted name; for a package that of its __init__.py.

        A folder without an __init__.py is no package: thaw/template holds what new projects get.
        """
        found = {}
        for package, folder in self.folders.items():
            for path in sorted(folder.rglob("*.py")):
                if not all((above / "__init__.py").exists() for above in path.parents if above.is_relative_to(folder)):
                    continue
                parts = (package, *path.relative_to(folder).with_suffix("").parts)
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found

    @property
    def stages(self) -> list[str]:
        """Names of the modules in stages/, sorted, without the stage that writes the fingerprints."""
        names = sorted(name.removeprefix("stages.") for name in self.modules if name.startswith("stages."))
        return [name for name in names if name != STAGE]

    def imports(self, name: str, *, typing_only: bool = False) -> frozenset[str]:
        """Return the names of all modules that a module of ours imports, with the packages above them.

        Imports inside functions count. Imports under `if TYPE_CHECKING:` count only with `typing_only`. Imports in
        `__getattr__` never count: they serve names that only code outside the package asks for.
        """
        path, found = self.modules[name], set[str]()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for statement in _contents(path).imports:
            if statement.typing_only and not typing_only:
                continue
            above = package.split(".")[: package.count(".") + 2 - statement.level] if statement.level else []
            base = ".".join([*above, *([statement.module] if statement.module else [])])
            found |= {base, *({f"{base}.{inner}" for inner in statement.names} & self.modules.keys())}
        return frozenset(above for module in found for above in _with_parents(module))

    def closure(self, name: str) -> dict[str, Path]:
        """Return every file that importing a module can bring in, itself included, by its path from the packages.

        A data file counts with the modules beside it, or beside its folder, that hold its name, or its folder's, as a
        string. The module with the version does not count. Raises: RunError if there is no such module.
        """
        if name not in self.modules:
            raise RunError(f"there is no module {name}; run stages from the root of the project, as `dvc repro` does")
        seen: set[str] = set()
        pending = set(_with_parents(name))
        while pending:
            module = pending.pop()
            seen.add(module)
            pending |= (self.imports(module) & self.modules.keys()) - seen - {VERSION}
        paths = [self.modules[module] for module in seen]
        paths += [file for path in paths for file in _contents(path).data]
        return dict(sorted((self._from_packages(path), path) for path in paths))

    def fingerprint(self, stage: str) -> Fingerprint:
        """Return the fingerprint of a stage. Raises: RunError if stages/ has no such module."""
        files = {name: artifacts.sha256_of(path) for name, path in self.closure(f"stages.{stage}").items()}
        return Fingerprint(stage=stage, digest=artifacts.digest(files), files=files)

    def _from_packages(self, path: Path) -> str:
        package, folder = next(entry for entry in self.folders.items() if path.is_relative_to(entry[1]))
        return f"{package}/{path.relative_to(folder).as_posix()}"


@cache
def running() -> Code:
    """Return the code that Python imports here: `stages` of the project, `thaw` of the project or as installed.

    Raises: RunError if one of them is not found.
    """
    folders = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise RunError(f"Python finds no package {package!r}; run stages from the root of the project")
        folders[package] = Path(spec.submodule_search_locations[0]).resolve()
    return Code(folders)


def path_of(stage: str) -> Path:
    """Return where the fingerprint of a stage is; `unfreeze@PHASE` has that of `unfreeze`."""
    return FOLDER / f"{stage.partition('@')[0]}.json"


def write(folder: Path, code: Code, only: Sequence[str] = ()) -> None:
    """Write the fingerprint of every stage, or `only` of some, into a folder."""
    for name in only or code.stages:
        artifacts.write_json(folder / f"{name}.json", code.fingerprint(name).model_dump())


def check_version(requirements: Path) -> None:
    """Compare the version of Thaw that requirements.txt pins, if it does, with the one that is installed.

    Raises: RunError if they differ: the fingerprints would be recorded under the wrong requirements.
    """
    if (pinned := _PINNED.search(requirements.read_text(encoding="utf-8"))) is None:
        return
    try:
        installed = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        installed = "none"
    if installed != pinned[1]:
        raise RunError(
            f"{requirements} pins {DISTRIBUTION}=={pinned[1]}, and {installed} is installed; "
            f"run `pip install -r {requirements}`, or name the installed version there"
        )


def sources(stage: str) -> list[Path]:
    """Return the files that a stage can import. Raises: RunError if stages/ has no such module."""
    return list(running().closure(f"stages.{path_of(stage).stem}").values())


def check(stage: str) -> None:
    """Compare the code that a stage would run with its fingerprint.

    Raises: RunError if they differ; it names the files, and the command that mends it.
    """
    path, code = path_of(stage), running()
    recorded, found = Fingerprint.read(path).files, code.fingerprint(path.stem).files
    differing = sorted({name for name, _ in recorded.items() ^ found.items()})
    if not differing:
        return
    here = Path.cwd().resolve()
    outside = [name for name in differing if not code.folders[name.partition("/")[0]].is_relative_to(here)]
    more = f" and {len(differing) - _NUM_NAMED} more" if len(differing) > _NUM_NAMED else ""
    raise RunError(
        f"{path} was written for other code than {stage} would run now ({', '.join(differing[:_NUM_NAMED])}{more}); "
        f"run {f'`dvc repro --force {STAGE}`, then `dvc repro`' if outside else '`dvc repro`'}"
    )


def loaded() -> dict[str, Path]:
    """Return the file of every module of ours that is in memory, by its name."""
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    ours = [spec for spec in specs if spec and spec.origin and spec.name.partition(".")[0] in PACKAGES]
    return {spec.name: Path(spec.origin) for spec in sorted(ours, key=lambda spec: spec.name)}


@dataclass(frozen=True)
class _Import:
    module: str
    level: int  # leading dots
    names: tuple[str, ...]
    typing_only: bool


@dataclass(frozen=True)
class _Contents:
    imports: tuple[_Import, ...]
    data: tuple[Path, ...]


@cache
def _contents(path: Path) -> _Contents:
    """Return what a module imports, and the data files that it names."""
    imports, strings = [], set[str]()
    for node, typing_only in _nodes(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            imports += [_Import(alias.name, 0, (), typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            imports.append(_Import(node.module or "", node.level, names, typing_only))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    return _Contents(tuple(imports), tuple(_data(path.parent, strings)))


def _nodes(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node outside of the module's `__getattr__`, and whether only type checkers reach it."""
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, typing_only = pending.pop()
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            continue
        yield node, typing_only
        test = ast.unparse(node.test).removeprefix("typing.") if isinstance(node, ast.If) else ""
        for field, value in ast.iter_fields(node):
            hidden = (test, field) in {("TYPE_CHECKING", "body"), ("not TYPE_CHECKING", "orelse")}
            inner = value if isinstance(value, list) else [value]
            pending += [(child, typing_only or hidden) for child in inner if isinstance(child, ast.AST)]


def _data(folder: Path, strings: set[str]) -> Iterator[Path]:
    """Yield the data files in a folder that `strings` name, and all files in its folders that they name."""
    for entry in folder.iterdir():
        if entry.name not in strings:
            continue
        if entry.is_dir() and not (entry / "__init__.py").exists():
            yield from (path for path in entry.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        elif entry.is_file() and entry.suffix != ".py":
            yield entry


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
