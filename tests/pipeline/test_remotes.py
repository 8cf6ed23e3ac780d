"""Pushed, pulled and hashed anew by real DVC: a folder, OpenSSH's server, moto's for S3, HTTP that only reads."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.photos import ROOT
from tests.pipeline.clone import Clone, wait_for

_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_THAW = (sys.executable, "-m", "thaw")
_IMAGES = {"cat/1.png": b"first" * 1000, "cat/2.png": b"second" * 1000, "dog/1.png": b"third" * 1000}
_SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/pid
StrictModes no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Remote:
    """Where a remote is, and the options of `dvc remote modify` that reach it."""

    url: str
    options: dict[str, str]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _server(port: int, *command: str) -> Iterator[None]:
    """Run a server of ours while the block runs."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is None and _listens(port), f"{command[0]} listens")
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _folder(place: Path) -> Iterator[Remote]:
    yield Remote(str(place / "store"), {})


@contextmanager
def _ssh(place: Path) -> Iterator[Remote]:
    """OpenSSH's server, with a host key and a port of its own."""
    sshd = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
    assert sshd, "the tests of remotes start OpenSSH's server; `make sshd` installs it"
    port = _free_port()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    (place / "config").write_text(_SSHD.format(port=port, folder=place))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # made at boot where there is one
    with _server(port, sshd, "-D", "-f", str(place / "config")):
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{place}/store"
        yield Remote(url, {"keyfile": str(place / "key")})


@contextmanager
def _s3(place: Path) -> Iterator[Remote]:
    """The server of moto, which stands in for S3: no other S3 server comes from a registry of packages."""
    port = _free_port()
    with _server(port, sys.executable, "-m", "moto.server", "-p", str(port)):
        url = f"http://127.0.0.1:{port}"
        urlopen(Request(f"{url}/bucket", method="PUT")).close()
        options = {"endpointurl": url, "region": "us-east-1", "access_key_id": "any", "secret_access_key": "any"}
        yield Remote("s3://bucket/store", options)


def _add(clone: Clone, remote: Remote, name: str = "store") -> None:
    """Make a remote the project's own."""
    clone.succeed("dvc", "remote", "add", "--quiet", "--default", name, remote.url)
    config = clone.root / ".dvc" / "config"
    config.write_text(config.read_text() + "".join(f"    {key} = {value}\n" for key, value in remote.options.items()))


def _commit(clone: Clone, message: str) -> None:
    clone.succeed("git", "add", "--all")
    clone.succeed(*_GIT, "commit", "--quiet", "--message", message)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project with three images in DVC and a git remote, `hub.git` beside it; no test changes it."""
    root = tmp_path_factory.mktemp("team") / "ours"
    root.mkdir()
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    clone = Clone(root, {"PYTHONPATH": paths, "GIT_CONFIG_GLOBAL": os.devnull})
    clone.succeed("git", "init", "--quiet", "--initial-branch=main")
    clone.succeed("git", "init", "--quiet", "--bare", "--initial-branch=main", "../hub.git")
    clone.succeed("git", "remote", "add", "origin", "../hub.git")
    clone.succeed("dvc", "init", "--quiet")
    (root / "dvc.yaml").write_text("stages: {}\n")
    for name, content in _IMAGES.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(content)
    clone.succeed("dvc", "add", "--quiet", "images")
    _commit(clone, "images")
    return clone


@pytest.fixture
def ours(project: Clone, tmp_path: Path) -> Clone:
    """A copy of the project, to change, with a copy of its git remote."""
    shutil.copytree(project.root.parent / "hub.git", tmp_path / "hub.git")
    return project.copy(tmp_path / "ours", **project.environment)


def _cloned(ours: Clone, to: Path) -> Clone:
    ours.succeed("git", "clone", "--quiet", ".", str(to))
    return Clone(to, ours.environment)


def _images_of(clone: Clone) -> dict[str, bytes]:
    folder = clone.root / "images"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def _damage(store: Path, content: bytes) -> Path:
    """Flip a byte of the object with this content; neither size, mode nor time says so."""
    path = next(path for path in store.rglob("*") if path.is_file() and path.read_bytes() == content)
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(bytes([content[0] ^ 1]))
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


@pytest.mark.parametrize("kind", [_folder, _ssh, _s3])
def test_what_is_pushed_is_pulled_elsewhere_and_hashes_to_its_names(
    ours: Clone, tmp_path: Path, kind: Callable[[Path], AbstractContextManager[Remote]]
) -> None:
    (tmp_path / "remote").mkdir()
    with kind(tmp_path / "remote") as remote:
        _add(ours, remote)
        assert "remote store: verify = true" in ours.succeed(*_THAW, "setup")
        _commit(ours, "a remote")
        code, said = ours.run(*_THAW, "verify", "--pushed")
        assert code == 1
        assert said.splitlines()[-1] == "not in remote store: 4 objects; run `dvc push` first"
        ours.succeed("dvc", "push", "--quiet")
        theirs = _cloned(ours, tmp_path / "theirs")
        theirs.succeed("dvc", "pull", "--quiet")
        assert _images_of(theirs) == _IMAGES
        assert theirs.succeed(*_THAW, "verify", "--remote") == "4 objects in remote store are what they are called\n"
        assert "are in remote store" in theirs.succeed(*_THAW, "verify", "--pushed")


def test_over_http_a_clone_pulls_and_looks_and_cannot_push(ours: Clone, tmp_path: Path) -> None:
    ours.succeed("dvc", "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    ours.succeed("dvc", "push", "--quiet")
    port = _free_port()
    with _server(port, sys.executable, "-m", "http.server", str(port), "--directory", str(tmp_path / "store")):
        ours.succeed("dvc", "remote", "modify", "--quiet", "store", "url", f"http://127.0.0.1:{port}")
        _commit(ours, "a remote")
        theirs = _cloned(ours, tmp_path / "theirs")
        theirs.succeed("dvc", "pull", "--quiet")
        assert _images_of(theirs) == _IMAGES
        _damage(tmp_path / "store", _IMAGES["dog/1.png"])
        code, said = theirs.run(*_THAW, "verify", "--remote")
        assert code == 1
        assert said.startswith(f"damaged: images/dog/1.png (http://127.0.0.1:{port}/files/md5/")
        (theirs.root / "images" / "cat" / "3.png").write_bytes(b"new")
        theirs.succeed("dvc", "add", "--quiet", "images")
        code, said = theirs.run("dvc", "push")
        assert code != 0
        assert "Unsupported method ('POST')" in said


def test_a_damaged_object_is_named_by_path_and_taken_in_by_no_other_clone(ours: Clone, tmp_path: Path) -> None:
    _add(ours, Remote(str(tmp_path / "store"), {}))
    ours.succeed(*_THAW, "setup")
    _commit(ours, "a remote")
    place = _damage(ours.root / ".dvc" / "cache", _IMAGES["cat/1.png"]).relative_to(ours.root)
    code, said = ours.run(*_THAW, "verify")
    assert code == 1
    first, last = said.splitlines()
    assert first == f"damaged: images/cat/1.png ({place})"
    assert last.startswith(
        "damaged in DVC's cache: 1 object of 4; `thaw verify --delete` deletes them, then `dvc pull`"
    )
    ours.succeed("dvc", "push", "--quiet")  # DVC trusts what is read-only, and takes it along
    code, said = ours.run("git", "push", "--quiet", "origin", "main")
    assert code == 1
    assert f"damaged: images/cat/1.png ({place})\n" in said
    assert "damaged in DVC's cache, and perhaps pushed so: 1 object" in said
    theirs = _cloned(ours, tmp_path / "theirs")
    assert theirs.run("dvc", "pull")[0] != 0, "verify = true refuses it"
    assert _IMAGES["cat/1.png"] not in _images_of(theirs).values()
    assert "images/cat/1.png" in ours.run(*_THAW, "verify", "--remote", "--delete")[1]
    ours.succeed(*_THAW, "verify", "--delete")
    (ours.root / "images" / "cat" / "1.png").unlink(missing_ok=True)
    (ours.root / "images" / "cat" / "1.png").write_bytes(_IMAGES["cat/1.png"])
    ours.succeed("dvc", "add", "--quiet", "images")
    ours.succeed("dvc", "push", "--quiet")
    ours.succeed("git", "push", "--quiet", "origin", "main")
    theirs.succeed("dvc", "pull", "--quiet")
    assert _images_of(theirs) == _IMAGES


def test_a_push_of_git_waits_for_its_data_and_names_the_paths(ours: Clone, tmp_path: Path) -> None:
    assert ours.succeed(*_THAW, "verify", "--pushed").startswith(
        "no remote of DVC's is set up, so no data can be in it"
    )
    _add(ours, Remote(str(tmp_path / "store"), {}))
    ours.succeed(*_THAW, "setup")
    _commit(ours, "a remote")
    code, said = ours.run("git", "push", "--quiet", "origin", "main")
    assert code == 1
    assert "missing: images/dog/1.png (" in said
    assert "not in remote store: 4 objects; run `dvc push` first; `git push --no-verify` pushes all the same" in said
    assert ours.succeed("git", "ls-remote", "origin") == ""
    ours.succeed("dvc", "push", "--quiet")
    ours.succeed("git", "push", "--quiet", "origin", "main")
    assert "refs/heads/main" in ours.succeed("git", "ls-remote", "origin")
    ours.succeed("git", "push", "--quiet", "origin", "main:other")
    ours.succeed("git", "push", "--quiet", "origin", "--delete", "other")  # names no data


def test_a_project_in_a_folder_of_a_repository_has_its_hooks_where_git_is_told_to_look(
    project: Clone, tmp_path: Path
) -> None:
    around = Clone(tmp_path / "around", project.environment)
    inside = Clone(around.root / "parts" / "cells", project.environment)
    inside.root.mkdir(parents=True)
    (around.root / "githooks").mkdir()
    (around.root / "githooks" / "pre-commit").write_text("#!/bin/sh\necho mine\n")
    around.succeed("git", "init", "--quiet", "--initial-branch=main")
    around.succeed("git", "init", "--quiet", "--bare", str(tmp_path / "other.git"))
    around.succeed("git", "config", "core.hooksPath", "githooks")
    inside.succeed("dvc", "init", "--quiet", "--subdir")
    (inside.root / "dvc.yaml").write_text("stages: {}\n")
    (inside.root / "image.png").write_bytes(b"image")
    inside.succeed("dvc", "add", "--quiet", "image.png")
    _add(inside, Remote(str(tmp_path / "store"), {}))
    said = inside.succeed(*_THAW, "setup")
    assert "pre-commit is your own, and left; for Thaw's, add this line: " in said
    assert (around.root / "githooks" / "pre-commit").read_text() == "#!/bin/sh\necho mine\n"
    _commit(around, "all")
    code, said = around.run("git", "push", "--quiet", str(tmp_path / "other.git"), "main")
    assert code == 1
    assert "missing: image.png (" in said


@pytest.mark.parametrize("command", ["thaw", "dvc"])
def test_a_remote_that_says_nothing_ends_with_a_line_in_time(ours: Clone, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = {"endpointurl": url, "region": "us-east-1", "access_key_id": "a", "secret_access_key": "b"}
        _add(ours, Remote("s3://bucket/store", options | {"connect_timeout": "1", "read_timeout": "1"}))
        started = time.monotonic()
        if command == "thaw":
            code, said = ours.run(*_THAW, "verify", "--remote", "--deadline", "2")
            assert said.splitlines()[-1].startswith("remote store has not answered for 2 s; see to its URL")
        else:
            code, said = ours.run("env", "AWS_MAX_ATTEMPTS=1", "dvc", "push")
            assert 'Read timeout on endpoint URL: "http://127.0.0.1' in said
        assert code != 0
        assert time.monotonic() - started < 60


def test_a_full_remote_and_a_pull_that_was_killed_are_made_good_by_the_same_command(
    ours: Clone, tmp_path: Path
) -> None:
    content = os.urandom(2**22)
    (ours.root / "images" / "large.png").write_bytes(content)
    ours.succeed("dvc", "add", "--quiet", "images")
    _add(ours, Remote(str(tmp_path / "store"), {}))
    _commit(ours, "a large one")
    code, said = ours.run("sh", "-c", "ulimit -f 2048; trap '' XFSZ; exec dvc push")  # no file above 1 or 2 MiB
    assert code != 0
    assert "File too large" in said
    code, said = ours.run(*_THAW, "verify", "--pushed")
    assert code == 1
    assert "missing: images/large.png (" in said
    ours.succeed("dvc", "push", "--quiet")
    assert ours.succeed(*_THAW, "verify", "--remote").startswith("5 objects")
    theirs = _cloned(ours, tmp_path / "theirs")
    pull = theirs.start("dvc", "pull")
    cache = theirs.root / ".dvc" / "cache" / "files"
    wait_for(lambda: pull.poll() is not None or any(path.is_file() for path in cache.rglob("*")), "a first object")
    pull.send_signal(signal.SIGKILL)
    pull.communicate()
    theirs.succeed("dvc", "pull", "--quiet", "--force")
    assert _images_of(theirs) == _IMAGES | {"large.png": content}
    assert theirs.succeed(*_THAW, "verify").startswith("5 objects")
