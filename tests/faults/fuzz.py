"""Feed every reader of foreign files with files that are nearly right: a result or a ThawError, and nothing else.

    python -m tests.faults.fuzz --seconds 300 --seed 1
    python -m tests.faults.fuzz --reader onnx --seed 1 --first 1234 --cases 1   # one case again

Each reader runs in a process of its own with 1 GiB of memory beyond what it begins with. Case n of a seed is the same
wherever and whenever it runs. What fails is kept in `--keep`, with what was seen. Exit code 1 if anything failed.
"""

import argparse
import faulthandler
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from pydantic import BaseModel

from tests import cut
from tests.faults.mutated import mutated
from thaw.errors import ThawError

ROOT = Path(__file__).resolve().parents[2]
MEMORY_BYTES = 2**30
_COMMAND = [sys.executable, "-m", "tests.faults.fuzz", "--work"]
_HANGS_S = 120.0  # of a case of milliseconds, on a machine that others use

Read = Callable[[bytes, Path, random.Random], None]
"""Reads bytes as a file, in a folder for it; whatever the draw decides may differ. Raises what the reader raises."""


@dataclass(frozen=True)
class Reader:
    """What is fuzzed."""

    read: Read
    files: list[bytes]
    """Good ones."""
    words: Sequence[bytes] = ()
    """What means something in them."""


@dataclass
class Found:
    """What came of the cases of a reader."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """`read`, `refused` and `failed`."""
    failures: list[tuple[int, str]] = field(default_factory=list)
    next: int = 0


def images() -> Reader:
    """Return the decoder of images (thaw/data/decoding.py)."""
    from thaw.data.decoding import Fit, Plane, UnusableError, decode

    def read(data: bytes, _: Path, draw: random.Random) -> None:
        asked = draw.choice((None, None, ((0.0, 200.0),)))
        fits: tuple[Fit, ...] = ("crop", "pad", "squash")
        planes: tuple[Plane, ...] = ("first", "first", "middle", "max", "mean", 0, 1)
        try:
            found = decode(
                data,
                size_px=16,
                fit=draw.choice(fits),
                background=255,
                max_megapixels=2,
                value_range=asked,
                plane=draw.choice(planes),
                compare_planes=draw.random() < 0.5,
            )
        except UnusableError as error:  # becomes a row of rejected.csv
            reason = str(error)
            raise (ThawError if "\n" not in reason else ValueError)(reason) from None
        assert found.pixels.shape[:2] == (16, 16)
        assert found.pixels.dtype in (np.uint8, np.uint16)
        assert found.width * found.height <= 2e6

    exif = Image.Exif()
    exif[0x0112] = 6
    grey, deep = cut.IMAGE.convert("L"), Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20)
    plain = [cut.encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")]
    plain += [cut.encoded("JPEG", progressive=True, exif=exif), cut.encoded("JPEG", cut.IMAGE.convert("CMYK"))]
    plain += [cut.png(48, interlaced=True), cut.encoded("PNG", deep), cut.encoded("PNG", cut.IMAGE.convert("P"))]
    plain += [cut.encoded("PNG", cut.IMAGE.convert("RGBA"), exif=exif), cut.encoded("WEBP", lossless=True, exif=exif)]
    plain += [cut.encoded("WEBP", save_all=True, append_images=[grey.convert("RGB")]), cut.bmp(1), cut.gif(48 * 64)]
    plain += [cut.encoded("GIF", save_all=True, append_images=[grey])]
    plain += [cut.tiff(1, kind) for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
    plain += [cut.tiff(1, "group4", "1"), _bands(np.uint16, 4), _bands(np.float32, 1), _bands(np.uint8, 5)]
    plain += [*_other_formats(), *_scans()]
    words = [b"IDAT", b"acTL", b"\xff\xc2", b"\xff\xda", b"\xff\xd9", b"VP8X", b"ANMF", b"II*\0", b"DICM", b"SQ", b"OW"]
    return Reader(read, plain, [*words, b"ftyp", b"iloc", b"jp2c", b"\xff\x51", b"P5\n", b" 65535\n", b"#"])


def _other_formats() -> list[bytes]:
    """Return a stack, PNM, AVIF, HEIC and JPEG 2000."""
    import imagecodecs
    import pillow_heif

    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    stack, heic = BytesIO(), BytesIO()
    tifffile.imwrite(stack, np.stack([deep, deep + 9, deep * 2]), photometric="minisblack")
    pillow_heif.from_pillow(cut.IMAGE).save(heic, quality=80)
    grey = cut.IMAGE.convert("L")
    moving = cut.encoded("AVIF", save_all=True, append_images=[grey.convert("RGB")])
    texts = [b"P5\n# x\n64 48\n4095\n" + deep.astype(">u2").tobytes(), b"P2 3 2 300\n1 2 3\n# x\n4 5 6\n"]
    return [stack.getvalue(), heic.getvalue(), moving, *texts, cut.encoded("PPM"), cut.encoded("PPM", grey),
            cut.encoded("JPEG2000"), bytes(imagecodecs.jpeg2k_encode(deep, level=0)), cut.encoded("AVIF")]  # fmt: skip


def _scans() -> list[bytes]:
    """Return DICOM files: plain, several frames, a window, a palette of bits, and each kind of compression."""
    import imagecodecs

    from tests.scans import dicom

    deep, kinds = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64), "1.2.840.10008.1.2.4."
    grey = np.asarray(cut.IMAGE.convert("L"))
    frames = {
        "50": cut.encoded("JPEG", cut.IMAGE.convert("L")),
        "70": imagecodecs.ljpeg_encode(deep, bitspersample=12),
        "80": imagecodecs.jpegls_encode(deep),
        "90": imagecodecs.jpeg2k_encode(deep, codecformat="j2k", level=0),
    }
    made = [
        dicom(grey if kind == "50" else deep, syntax=kinds + kind, frames=[bytes(one)]) for kind, one in frames.items()
    ]
    made += [
        dicom(deep, BitsStored=12, WindowCenter=[40, 50], WindowWidth=[400, 9], RescaleSlope=1, RescaleIntercept=-9)
    ]
    made += [
        dicom(np.stack([grey, 255 - grey]), NumberOfFrames=2, kind="MONOCHROME1"),
        dicom(cut.PIXELS, kind="YBR_FULL"),
    ]
    return made


def _bands(dtype: type[np.generic], bands: int) -> bytes:
    values = np.linspace(0, 1 if dtype is np.float32 else 200, 24 * 32 * bands).reshape(24, 32, bands).astype(dtype)
    file = BytesIO()
    options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"} if bands > 1 else {}
    tifffile.imwrite(file, values if bands > 1 else values[:, :, 0], compression="zlib", **options)
    return file.getvalue()


def safetensors() -> Reader:
    """Return the readers of safetensors files: of Thaw's own, and of weights from elsewhere."""
    import torch
    from safetensors.torch import save

    from thaw.networks import model_files, values
    from thaw.networks.sources.weights import read_tensors

    def read(data: bytes, folder: Path, draw: random.Random) -> None:
        path = folder / "weights.safetensors"
        path.write_bytes(_with_length(data) if draw.random() < 0.7 else data)
        tensors = model_files.load(path) if draw.random() < 0.5 else read_tensors(path)
        values.check(tensors)

    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {f"layer.{number}": torch.ones(3, 4).to(kind) for number, kind in enumerate(kinds)}
    norm = {"bn.weight": torch.ones(4), "bn.running_var": torch.ones(4), "bn.num_batches_tracked": torch.tensor(3)}
    words = "F64 F32 F16 BF16 I64 I8 U8 U16 U32 U64 BOOL C64 F8_E4M3 F8_E5M2 F8_E8M0 F4 F6_E2M3 X9 [] [0] [-1] [0,0]"
    words += ' [4294967296,4294967296] "dtype" "shape" "data_offsets" bn.running_var {} , : " null 1e9 -1 __metadata__'
    return Reader(read, [save(tensors), save(norm), save({**norm, **tensors}), save({})], words.encode().split())


def checkpoints() -> Reader:
    """Return the reader of what trainers write: the pickle in a file of torch, settings and objects beside weights."""
    import torch
    from torch import nn

    from thaw.networks.sources import fitting, weights

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    own = network.state_dict()
    beside = {
        "args": argparse.Namespace(path=Path("a"), rate=np.float32(1), table=defaultdict(list, a=[1])),
        "ema": {f"module.{name}": tensor for name, tensor in own.items()},
        "arrays": {name: tensor.numpy() for name, tensor in own.items()},
    }
    archives = []
    for value in ({"model": own, "network": network, **beside}, own, {"model": own, **beside}):
        file = BytesIO()
        torch.save(value, file)
        with zipfile.ZipFile(file) as archive:
            archives.append({name: archive.read(name) for name in archive.namelist()})
    pickles = [data for files in archives for name, data in files.items() if name.endswith("data.pkl")]

    def read(data: bytes, folder: Path, _: random.Random) -> None:
        path = folder / "weights.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in archives[0].items():
                archive.writestr(name, data if name.endswith("data.pkl") else content)
        fitting.take(weights.read(path), network, None, str)

    calls = [
        b"cos\nsystem\n",
        b"c__builtin__\nexec\n",
        b"cnumpy\nload\n",
        b"cargparse\nNamespace\n",
        b"(tR",
        b")\x81}b",
    ]
    return Reader(read, pickles, [*calls, *(bytes([code]) for code in b"Rb.suet(}])0a\x81\x93\x95")])


def _with_length(data: bytes) -> bytes:
    """Return a safetensors file whose first 8 bytes say how long its header is, as far as it has one."""
    end = data.rfind(b"}}") + 2
    return (end - 8).to_bytes(8, "little") + data[8:] if end > 8 else data


def listing() -> Reader:
    """Return the reader of lists of images, as data.raw and as data.labels."""
    from thaw.config.schema import DataParams
    from thaw.data import listing as reader
    from thaw.data.manifest import SPLITS

    def read(data: bytes, folder: Path, draw: random.Random) -> None:
        (folder / "labels.csv").write_bytes(data)
        raw = folder / "raw"
        for name in ("a/1.png", "a/2.png", "b/3.png"):
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(b"")
        as_labels = draw.random() < 0.5
        how = DataParams.model_validate({"raw": "raw", "task": draw.choice(["auto", "single-label"])})
        table = folder / "labels.csv"
        found = reader.read(raw, table, how) if as_labels else reader.read(table, data=how)
        assert len(found.classes) > 1
        assert found.table["path"].is_unique
        assert set(found.table["split"]) <= {"", *SPLITS.values()}
        assert found.table["confidence"].between(0, 1, inclusive="right").all()
        assert all((found.root / path).resolve().is_relative_to(found.root.resolve()) for path in found.table["path"])

    files = [
        b"path,label\na/1.png,a\na/2.png,a\nb/3.png,b\n",
        b"path,label,split,group,confidence\na/1.png,a,train,g1,1\na/2.png,a,val,,0.5\nb/3.png,b,test,g2,1e-3\n",
        '\ufefflabel,path,note\r\n"ä ö",a/1.png,"x, ""y"""\r\nb,a/2.png,\r\nb,b/3.png,z\r\n'.encode(),
        "sep=;\r\npath;label;note\r\na\\1;1;x\r\na\\2.png;2;x\r\nb\\3;3;x\r\n".encode("utf-16"),
    ]
    words = ["path", "label", "split", "group", "confidence", "\n", "\r", "\r\n", '"', '""', ",", ",,", "\0", "../"]
    words += ["<<<<<<< HEAD\n", "nan", "inf", "1e999", "-1", "0", "NA", "\ufeff", "\u2028", "valid", "/"]
    words += ["sep=;\n", ";", "\t", "\\", "C:\\", "//", "a;b", "a|b", "1.5", "is_valid", "patient_id", "fold"]
    words += ["9" * 5000, "a" * 400]
    return Reader(read, files, [*(word.encode() for word in words), b"\xff", b"\xed\xa0\x80"])


def manifests() -> Reader:
    """Return the readers of the JSON files of a folder: its manifest, and the facts of every kind."""
    from tests import tiny
    from thaw.pipeline import artifacts
    from thaw.pipeline.data_facts import Audit, ClassNames, Preprocessing
    from thaw.pipeline.model_facts import ExportedFacts, FeaturesFacts, ModelFacts
    from thaw.pipeline.report_facts import Selection

    kinds = (Audit, ClassNames, Preprocessing, ExportedFacts, FeaturesFacts, ModelFacts, Selection)

    def read(data: bytes, folder: Path, _: random.Random) -> None:
        (folder / "a").write_bytes(b"content")
        (folder / "manifest.json").write_bytes(data)
        refusals = []
        looks: list[Callable[[Path], object]] = [artifacts.verify, *(partial(_facts_in, kind) for kind in kinds)]
        for look in looks:
            try:
                look(folder)
            except ThawError as error:
                refusals.append(error)
        if len(refusals) > len(kinds):
            raise refusals[-1]

    with tempfile.TemporaryDirectory() as folder:
        with artifacts.new_folder(Path(folder) / "made") as made:
            (made / "a").write_bytes(b"content")
        files = [(made.with_name("made") / "manifest.json").read_bytes()]
    stored = [tiny.audit(), ClassNames(classes=tiny.CLASSES), tiny.preprocessing(), tiny.exported_facts()]
    stored += [tiny.features_facts(tiny.CLASSES), tiny.model_facts(), tiny.selection(head={}, top={"chosen": True})]
    files += [json.dumps(found.model_dump(mode="json", by_alias=True), indent=2).encode() for found in stored]
    words = ["{", "}", "[", "]", ",", ":", '"', "null", "true", "NaN", "Infinity", "-1", "1e999", "0.5", "{}", "[]"]
    words += ['"\\ud800"', '"files"', '"bytes"', '"sha256"', '"\\u0000"', '"../a"']
    words += ["9" * 5000, "[" * 5000, '{"a":' * 3000]
    return Reader(read, files, [*(word.encode() for word in words), b"\xff"])


def _facts_in(kind: type[BaseModel], folder: Path) -> None:
    from thaw.pipeline import facts

    facts.read(folder / "manifest.json", kind)


def params() -> Reader:
    """Return the reader of params.yaml."""
    from thaw.config.reader import load_params

    def read(data: bytes, folder: Path, _: random.Random) -> None:
        (folder / "params.yaml").write_bytes(data)
        load_params(folder / "params.yaml")

    files = [(ROOT / "params.yaml").read_bytes()]
    words = ["{", "}", "[", "]", ": ", "- ", "\n", "\n  ", "&a ", "*a", "<<: ", "!!python/name:os.system ", "? ", "| "]
    words += ["null", "true", "yes", "0x1F", "012", ".nan", "-.inf", "1e999", "9" * 5000, "[" * 3000, "\t", "#", "'"]
    words += ['"', "---\n", "%YAML 1.1\n", "\0", "\u2028", "\ufeff", "2026-11-22", "1_000", "head", "auto", "-1"]
    return Reader(read, files, [*(word.encode() for word in words), b"\xff"])


def onnx() -> Reader:
    """Return the reader of networks in ONNX (thaw/networks/onnx), to the network in torch and its comparison."""
    import torch

    from tests import onnx_files
    from thaw.networks.sources import onnx as source

    torch.set_num_threads(1)

    def read(data: bytes, folder: Path, _: random.Random) -> None:
        path = folder / "net.onnx"
        path.write_bytes(data)
        source.fetch(str(path), source.describe(str(path)))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        made = [{}, {"nhwc": True}, {"flat": "constant"}, {"flat": "computed"}]
        files = [onnx_files.small(path, **more).read_bytes() for more in made]  # type: ignore[arg-type]
    words = "Conv Relu Gemm MatMul Add Reshape Flatten Transpose Concat Gather Shape Expand Range Softmax Cast Loop If"
    words += " GlobalAveragePool MaxPool ConstantOfShape Tile Pad Resize images out perm strides pads axis kernel_shape"
    return Reader(read, files, words.encode().split())


READERS: dict[str, Callable[[], Reader]] = {
    "images": images,
    "safetensors": safetensors,
    "checkpoints": checkpoints,
    "listing": listing,
    "manifests": manifests,
    "params": params,
    "onnx": onnx,
}
_SHARES = {"onnx": 5}
"""Of the time: a case of ONNX starts processes, and takes a hundred times that of another."""


def work(name: str, seed: int, numbers: Iterator[int], until: float) -> None:
    """Run cases of a reader in this process and write a line of JSON for each, before and after."""
    faulthandler.enable()
    reader = READERS[name]()
    with tempfile.TemporaryDirectory() as folder:  # they also load what the reader loads when it is first used
        for place, data in enumerate(reader.files):
            seen = _outcome(reader, data, Path(folder), random.Random(0))
            assert seen["outcome"] == "read", f"{name}: good file {place} is {seen}"
    used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    limit = int(used.split()[1]) * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    for number in numbers:
        if time.monotonic() > until:
            break
        _say({"number": number})
        with tempfile.TemporaryDirectory() as folder:
            data = mutated(reader.files, seed, number, reader.words)
            _say({"number": number, **_outcome(reader, data, Path(folder), random.Random(f"{number}"))})


def _say(line: dict[str, Any]) -> None:
    os.write(1, f"{json.dumps(line)}\n".encode())


def _outcome(reader: Reader, data: bytes, folder: Path, draw: random.Random) -> dict[str, str]:
    try:
        reader.read(data, folder, draw)
    except ThawError as error:
        told = str(error).encode("utf-8", "backslashreplace").decode()
        return {"outcome": "refused"} if told.strip() else {"outcome": "failed", "text": "an error without a text"}
    except BaseException as error:  # noqa: BLE001 - what this is after
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = "" if place is None else f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
        return {"outcome": "failed", "text": f"{type(error).__name__}: {str(error)[:300]!r}{where}"}
    return {"outcome": "read"}


def run(name: str, *, seed: int, first: int = 0, cases: int | None = None, seconds: float = 3600.0) -> Found:
    """Run cases of a reader, in processes that are started again when one dies, and return what came of them."""
    found, until = Found(next=first), time.monotonic() + seconds
    while time.monotonic() < until and (cases is None or found.next < first + cases):
        left = "" if cases is None else str(first + cases - found.next)
        begun = found.next
        _drain(found, [name, str(seed), str(found.next), left, str(until - time.monotonic())])
        if found.next == begun:
            break  # it had time for nothing more
    return found


def _drain(found: Found, arguments: list[str]) -> None:
    """Take over what a process says until it ends, dies or says nothing for too long."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [*_COMMAND, *arguments]
    open_case: int | None = None
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        hangs = False
        while True:
            ready, _, _ = select.select([process.stdout], [], [], _HANGS_S)
            if not ready:
                hangs = True
                process.kill()
                break
            if not (line := process.stdout.readline()):
                break
            said = json.loads(line)
            open_case = None if "outcome" in said else said["number"]
            if "outcome" in said:
                _take(found, said["number"], said["outcome"], said.get("text", ""))
        code = process.wait()
        errors.seek(0)
        tail = errors.read()[-2000:].decode(errors="replace")
    if open_case is not None:
        _take(found, open_case, "failed", f"hangs for {_HANGS_S:.0f} s" if hangs else f"ends with {code}: {tail}")
    elif code:
        raise RuntimeError(f"the fuzzer itself ended with {code}: {tail}")


def _take(found: Found, number: int, outcome: str, text: str) -> None:
    found.outcomes[outcome] += 1
    found.next = number + 1
    if outcome == "failed":
        found.failures.append((number, text))


def keep(name: str, seed: int, found: Found, folder: Path) -> None:
    """Write the cases that failed, and what was seen, into a folder."""
    if not found.failures:
        return
    folder.mkdir(parents=True, exist_ok=True)
    reader = READERS[name]()
    for number, text in found.failures:
        path = folder / f"{name}-{seed}-{number}"
        path.with_suffix(".bin").write_bytes(mutated(reader.files, seed, number, reader.words))
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def main() -> int:
    """Run what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=READERS, help="one only")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--cases", type=int, help="how many of each reader at most")
    parser.add_argument("--keep", type=Path, default=ROOT / ".thaw" / "fuzz", help="folder for what fails")
    asked = parser.parse_args()
    names = [asked.reader] if asked.reader else [*READERS]
    share_s, failed = asked.seconds / sum(_SHARES.get(name, 1) for name in names), 0
    for name in names:
        seconds = share_s * _SHARES.get(name, 1)
        found = run(name, seed=asked.seed, first=asked.first, cases=asked.cases, seconds=seconds)
        keep(name, asked.seed, found, asked.keep)
        failed += len(found.failures)
        counts = ", ".join(f"{found.outcomes[kind]} {kind}" for kind in ("read", "refused", "failed"))
        print(f"{name}: {sum(found.outcomes.values())} cases, {counts}", flush=True)
        for number, text in found.failures[:20]:
            print(f"  case {number}: {text.splitlines()[-1] if text else ''}", flush=True)
    return int(failed > 0)


def _main_of_worker(name: str, seed: str, first: str, left: str, seconds: str) -> None:
    end = int(first) + int(left) if left else sys.maxsize
    with suppress(BrokenPipeError):
        work(name, int(seed), iter(range(int(first), end)), time.monotonic() + float(seconds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        _main_of_worker(*sys.argv[2:])
    else:
        sys.exit(main())
