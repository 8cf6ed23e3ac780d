"""Pictures of the report and of the page of `serve`, wide and narrow. Run as `python -m tests.browser.screenshots`."""

import io
import threading
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.chrome import chromium, look
from thaw.serving.exported import Exported
from thaw.serving.serve import listener, server, url_of
from thaw.serving.uploads import Callers, Limits

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "reports" / "index.html"
CELL = ROOT / "data" / "sample" / "images" / "defective" / "cell0002.png"
SHOTS = {"wide": (1400, 1180), "narrow": (360, 1180)}
"""Width and height in CSS pixels."""
_COLOURS = 128


def main() -> None:
    """Write docs/images/report-*.png and serve-*.png, in light colours, few enough of them to stay small."""
    with chromium() as window, listener("127.0.0.1", 0) as ours:
        serving = server(Exported.open(ROOT / "models" / "export"), Limits(), Callers("127.0.0.1"))
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [ours]})
        thread.start()
        for name, (width, height) in SHOTS.items():
            look(window, REPORT, width=width, height=height)
            shoot(window, f"report-{name}.png")
            look(window, url_of(ours), width=width, height=860 if width > height else 960)
            window.find_element(By.ID, "file").send_keys(str(CELL))
            WebDriverWait(window, 60).until(lambda _: window.find_element(By.ID, "winner").text)
            window.find_element(By.ID, "overlay").click()
            shoot(window, f"serve-{name}.png")
        serving.should_exit = True
        thread.join()


def shoot(window: Chrome, name: str) -> None:
    """Write what the window shows into docs/images."""
    folder = ROOT / "docs" / "images"
    folder.mkdir(exist_ok=True)
    image = Image.open(io.BytesIO(window.get_screenshot_as_png())).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(folder / name, optimize=True)
    print(f"docs/images/{name}: {(folder / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
