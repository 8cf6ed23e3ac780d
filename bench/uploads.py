"""Memory of `thaw serve` while many large images arrive at once, and what remains when they are answered.

    python -m bench.uploads                                     50 images of 19 MB: about a minute
    python -m bench.uploads --uploads 10 --megabytes 5

The images are BMPs of noise, which have to be decoded and resized like any other; each client sends its own at the
same moment and comes back as `Retry-After` says until it is answered. Memory is the proportional share (Pss) of the
server and of the process that decodes, added up every 20 ms. Linux only. Needs an exported model: models/export, or
--model.
"""

import argparse
import http.client
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

_EVERY_S = 0.02
_PATIENCE_S = 300.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the peak, what is held before and after, and what was answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/export", help="The folder of an exported model.")
    parser.add_argument("--uploads", type=int, default=50, help="How many images arrive at once.")
    parser.add_argument("--megabytes", type=float, default=19.0, help="How large each is.")
    wish = parser.parse_args(arguments)
    body = _bmp(wish.megabytes)
    command = [sys.executable, "-m", "thaw", "serve", "--model", wish.model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)", str(server.stdout.readline()))
        assert found is not None, "the server did not start"
        address = (str(found[1]), int(str(found[2])))
        try:
            _ask(address, body)
            before = _megabytes(server.pid)
            peak, statuses, seconds = _storm(address, body, wish.uploads, server.pid)
            time.sleep(2)
            after = _megabytes(server.pid)
        finally:
            server.terminate()
    print(f"{wish.uploads} uploads of {len(body) / 1e6:.1f} MB at once; answers by status: {dict(statuses)}")
    print(f"memory: {before:.0f} MB before, {peak:.0f} MB at the peak, {after:.0f} MB after; {seconds:.1f} s")


def _storm(address: tuple[str, int], body: bytes, count: int, server: int) -> tuple[float, Counter[int], float]:
    """Send everything at once; return the peak in MB, how often each status came, and how long it took, in seconds."""
    statuses, peak, gate = Counter[int](), 0.0, threading.Barrier(count + 1)

    def client() -> None:
        gate.wait()
        while (status := _ask(address, body)) == 503:
            statuses[status] += 1
            time.sleep(1)
        statuses[status] += 1

    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    gate.wait()
    started = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, _megabytes(server))
        time.sleep(_EVERY_S)
    return peak, statuses, time.monotonic() - started


def _ask(address: tuple[str, int], body: bytes) -> int:
    connection = http.client.HTTPConnection(*address, timeout=_PATIENCE_S)
    connection.request("POST", "/predict", body)
    status = connection.getresponse().status
    connection.close()
    return status


def _bmp(megabytes: float) -> bytes:
    side = int((megabytes * 1e6 / 3) ** 0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def _megabytes(server: int) -> float:
    """Return what a process and its children hold, in MB; a page that several share counts once."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text(encoding="ascii").split()
    return sum(_pss(one) for one in [server, *map(int, children)]) / 1e6


def _pss(process: int) -> int:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:  # it has ended
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(str(found[1])) if found else 0


if __name__ == "__main__":
    main()
