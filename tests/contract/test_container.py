"""The Dockerfile of a project: what it installs, copies and runs, without Docker.

The lines that install need a network, and are not run: docs/guide/registry.md says what they were seen to do. Here no
library of an extra but `serve` can be imported.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image

from tests import tiny
from tests.contract import repository
from tests.contract.test_package import _WITHOUT_EXTRAS
from tests.exports import Twins
from thaw import DISTRIBUTION, extras
from thaw.project import files
from thaw.version import VERSION


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile that a project gets, in order."""
    lines = [line for line in files.project_files()["Dockerfile"].splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def values(name: str) -> list[str]:
    """Return what stands after each instruction of a name."""
    return [rest for found, rest in instructions() if found == name]


def copied() -> list[str]:
    """Return what is copied from the project's folder."""
    return [line for line in values("COPY") if not line.startswith("--from=")]


def stage_groups() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage of the build, which begins with FROM."""
    groups: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            groups.append([])
        groups[-1].append((name, rest))
    return groups


def test_it_installs_the_extra_serve_of_this_version_and_serves_as_nobody_in_particular() -> None:
    names = [name for name, _ in instructions()]
    assert values("ARG")[0] == f'THAW="{DISTRIBUTION}[serve]=={VERSION}"'
    assert [word for line in values("RUN") for word in shlex.split(line)][:4] == ["python", "-m", "pip", "install"]
    assert values("USER") == ["10001:10001"]
    assert "groupadd --system --gid 10001 thaw && useradd --system --uid 10001 --gid thaw thaw" in values("RUN")
    assert names.index("USER") < names.index("CMD")
    kept = [line for line in files.project_files()[".dockerignore"].splitlines() if line.startswith("!")]
    assert [f"!{line.split()[0]}" for line in copied()] == kept


def test_it_lists_what_is_installed_by_a_tool_that_is_not_in_the_image() -> None:
    installed, listed, image = ([rest for name, rest in group if name != "FROM"] for group in stage_groups())
    assert values("FROM") == ["python:3.11-slim AS installed", "installed AS listed", "installed"]
    (taken,) = [line for line in values("COPY") if line.startswith("--from=")]
    written = re.search(r"cyclonedx-py environment .*--output-file (\S+) /usr/local/bin/python$", listed[-1])
    assert written
    assert taken == f"--from=listed {written[1]} /usr/local/share/sbom/python.cdx.json"
    assert re.search(r"pip install --no-cache-dir cyclonedx-bom==[0-9.]+$", listed[0])
    assert "cyclonedx" not in str([installed, image])


def test_its_command_serves_a_model_and_its_health_check_sees_that(tmp_path: Path, twins: Twins) -> None:
    (model,) = copied()
    shutil.copytree(twins.exported, tmp_path / model.split()[1])
    libraries = {library for extra, names in extras.LIBRARIES.items() if extra != "serve" for library in names}
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_WITHOUT_EXTRAS.format(libraries=libraries))
    (tmp_path / "site" / "thaw").symlink_to(repository.ROOT / "thaw")
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "site"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "THAW_MODEL_VERSION": "classifier@v1.0.0",
    }
    port = free_port()
    command = [word.replace("8000", port) for word in json.loads(values("CMD")[0])]
    health = json.loads(re.sub(r"^.*?CMD ", "", values("HEALTHCHECK")[0]).replace("8000", port))
    assert (command[0], health[0]) == ("thaw", "python")
    serving = [sys.executable, "-m", *command]
    with subprocess.Popen(serving, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert f"answers at http://0.0.0.0:{port}" in server.stdout.readline()
            assert healthy(health, environment, tmp_path)
            Image.fromarray(tiny.pixels(1)[0]).save(tmp_path / "a.png")
            image = (tmp_path / "a.png").read_bytes()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict?top=1", image, timeout=30) as answer:
                assert json.load(answer)["model"] == "classifier@v1.0.0"
        finally:
            server.terminate()
    assert not healthy(health, environment, tmp_path)


def free_port() -> str:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def healthy(command: list[str], environment: dict[str, str], folder: Path) -> bool:
    """Tell whether the health check passes, as Docker asks: three times."""
    for _ in range(3):
        done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True)
        if done.returncode == 0:
            return True
        time.sleep(0.2)
    return False
