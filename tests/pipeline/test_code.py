"""What an edit of the code, or an upgrade of an installed Thaw, makes DVC run again, and what it leaves alone."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.pipeline.clone import STAGES, Clone, stages_run
from tests.pipeline.fixtures import Run

UP_TO_DATE = "Data and pipelines are up to date.\n"
_DECODERS = ["prepare", "evaluate", "report", "export"]  # the stages that can import thaw/data/decoding.py
_REFUSED = "data/code/report.json was written for other code than report would run now (thaw/report/text.py)"


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _stale(clone: Clone) -> list[str]:
    """Return the stages that `dvc status` does not find up to date, in the order of the pipeline."""
    found = json.loads(clone.succeed("dvc", "status", "--json", "dvc.yaml"))
    return [name for name in STAGES if name in found]


def test_an_edit_in_the_code_of_the_report_reruns_the_report_alone(finished: Run, copy: Clone) -> None:
    _append(copy.root / "thaw" / "report" / "text.py", "# edited\n")
    assert _stale(copy) == ["code"]
    assert stages_run(copy.succeed("dvc", "repro")) == ["code", "report"]
    assert copy.succeed("dvc", "status", "dvc.yaml") == UP_TO_DATE
    assert copy.lock()["export"] == finished.clone.lock()["export"]
    changed = {name for name, digest in copy.hashes().items() if finished.clone.hashes()[name] != digest}
    assert changed == {"data/code/report.json", "data/code/manifest.json"}


def test_an_edit_in_a_template_of_the_report_reruns_the_report_alone(copy: Clone) -> None:
    _append(copy.root / "thaw" / "report" / "templates" / "style.css", "/* edited */\n")
    assert stages_run(copy.succeed("dvc", "repro")) == ["code", "report"]
    assert "/* edited */" in (copy.root / "reports" / "index.html").read_text(encoding="utf-8")


def test_an_edit_in_the_decoder_reruns_from_prepare_on(copy: Clone) -> None:
    path = copy.root / "thaw" / "data" / "decoding.py"
    _append(path, "\n_unturned = _square\n\n\ndef _square(*given):\n    return _unturned(*given).transpose(0)\n")
    copy.succeed("dvc", "repro", "code")
    assert _stale(copy) == _DECODERS
    assert stages_run(copy.succeed("dvc", "repro", "head")) == ["prepare", "features", "head"]
    assert {"unfreeze@top", "unfreeze@mid", "select", *_DECODERS[1:]} - set(_stale(copy)) == set()


def test_an_edit_in_the_decoder_that_changes_no_image_leaves_training_alone(copy: Clone) -> None:
    _append(copy.root / "thaw" / "data" / "decoding.py", "# edited\n")
    assert stages_run(copy.succeed("dvc", "repro", "select")) == ["code", "prepare"]
    assert _stale(copy) == _DECODERS[1:]


@pytest.mark.parametrize("name", ["params.yaml", "README.md"])
def test_a_comment_in_params_or_a_line_of_the_readme_reruns_nothing(copy: Clone, name: str) -> None:
    _append(copy.root / name, "\n# a remark\n")
    assert copy.succeed("dvc", "status", "dvc.yaml") == UP_TO_DATE
    assert stages_run(copy.succeed("dvc", "repro")) == []


def test_an_edit_in_code_that_no_stage_imports_reruns_code_alone(copy: Clone) -> None:
    _append(copy.root / "thaw" / "serving" / "serve.py", "# edited\n")
    _append(copy.root / "thaw" / "serving" / "page" / "page.css", "/* edited */\n")
    assert stages_run(copy.succeed("dvc", "repro")) == ["code"]
    assert copy.succeed("dvc", "status", "dvc.yaml") == UP_TO_DATE


def test_a_pin_in_the_requirements_reruns_code_alone(copy: Clone) -> None:
    _append(copy.root / "requirements.txt", "tqdm==4.67.1\n")
    assert stages_run(copy.succeed("dvc", "repro")) == ["code"]


def test_edited_code_is_refused_without_its_fingerprint_and_what_the_message_says_mends_it(copy: Clone) -> None:
    _append(copy.root / "thaw" / "report" / "text.py", "# edited\n")
    before = (copy.root / "reports" / "index.html").read_bytes()
    code, output = copy.run("python", "-m", "stages.report")
    assert (code, output) == (1, f"{_REFUSED}; run `dvc repro`\n")
    assert (copy.root / "reports" / "index.html").read_bytes() == before
    assert stages_run(copy.succeed("dvc", "repro")) == ["code", "report"]
    copy.succeed("python", "-m", "stages.report")


def _install(clone: Clone, to: Path, version: str) -> Clone:
    """Lay out `thaw` of a clone as pip installs a wheel, and return the clone with it on Python's path."""
    shutil.copytree(clone.root / "thaw", to / "thaw", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = to / f"thaw_vision-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: thaw-vision\nVersion: {version}\n", encoding="utf-8")
    return Clone(clone.root, {"PYTHONPATH": str(to)})


def _pin(clone: Clone, version: str) -> None:
    (clone.root / "requirements.txt").write_text(f"thaw-vision[train]=={version}\n", encoding="utf-8")


@pytest.fixture
def installed(copy: Clone, tmp_path: Path) -> tuple[Clone, Clone]:
    """A project without thaw/, on an installed Thaw 0.1.0 and on 0.2.0; they differ in a module of the report."""
    old = _install(copy, tmp_path / "0.1.0", "0.1.0")
    new = _install(copy, tmp_path / "0.2.0", "0.2.0")
    _append(tmp_path / "0.2.0" / "thaw" / "report" / "text.py", "# newer\n")
    shutil.rmtree(copy.root / "thaw")
    graph = yaml.safe_load((copy.root / "dvc.yaml").read_text(encoding="utf-8"))
    graph["stages"]["code"]["deps"].remove("thaw")
    (copy.root / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False), encoding="utf-8")
    _pin(copy, "0.1.0")
    return old, new


def test_an_upgrade_of_an_installed_thaw_reruns_the_stages_whose_code_changed(
    finished: Run, installed: tuple[Clone, Clone]
) -> None:
    old, new = installed
    # The same code has the same fingerprints, whether it lies in the repository or is installed.
    assert stages_run(old.succeed("dvc", "repro")) == ["code"]
    assert old.hashes() == finished.clone.hashes()
    assert old.succeed("dvc", "status", "dvc.yaml") == UP_TO_DATE
    _pin(new, "0.2.0")
    assert stages_run(new.succeed("dvc", "repro")) == ["code", "report"]
    assert new.succeed("dvc", "status", "dvc.yaml") == UP_TO_DATE
    # Back again: the run cache has both.
    _pin(old, "0.1.0")
    assert stages_run(old.succeed("dvc", "repro")) == []
    assert old.hashes() == finished.clone.hashes()


def test_an_upgrade_that_the_requirements_do_not_name_is_refused(installed: tuple[Clone, Clone]) -> None:
    old, new = installed
    old.succeed("dvc", "repro")
    code, output = new.run("python", "-m", "stages.report")
    assert (code, output) == (1, f"{_REFUSED}; run `dvc repro --force code`, then `dvc repro`\n")
    code, output = new.run("dvc", "repro", "--force", "code")
    assert code != 0
    assert (
        "\nrequirements.txt pins thaw-vision==0.1.0, and 0.2.0 is installed; run `pip install -r requirements.txt`, "
        "or name the installed version there\n" in output
    )


def test_an_upgrade_without_a_pin_is_taken_up_by_the_command_that_the_message_names(
    installed: tuple[Clone, Clone],
) -> None:
    old, new = installed
    (old.root / "requirements.txt").write_text("thaw-vision\n", encoding="utf-8")
    old.succeed("dvc", "repro")
    assert stages_run(new.succeed("dvc", "repro", "--force", "code")) == ["code"]
    assert stages_run(new.succeed("dvc", "repro")) == ["report"]
