"""Pictures of the report for the README, wide and narrow. Run as `python -m tests.browser.screenshots`."""

import io
from pathlib import Path

from PIL import Image

from tests.browser.chrome import chromium, look

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "reports" / "index.html"
SHOTS = {"report-wide.png": (1400, 1180), "report-narrow.png": (360, 1180)}
"""Name, and width and height in CSS pixels."""
_COLOURS = 128


def main() -> None:
    """Write docs/images/report-*.png: the top of the page, in light colours, few enough of them to stay small."""
    folder = ROOT / "docs" / "images"
    folder.mkdir(exist_ok=True)
    with chromium() as window:
        for name, (width, height) in SHOTS.items():
            look(window, PAGE, width=width, height=height)
            image = Image.open(io.BytesIO(window.get_screenshot_as_png())).convert("RGB")
            image.quantize(_COLOURS, dither=Image.Dither.NONE).save(folder / name, optimize=True)
            print(f"docs/images/{name}: {(folder / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
