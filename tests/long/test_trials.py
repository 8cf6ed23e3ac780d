"""`thaw trials` and `thaw sweep` in a small repository of git and DVC, and trials of the pipeline side by side."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend

from tests import tiny
from tests.pipeline.clone import ROOT, Clone, stages_run, wait_for
from tests.pipeline.fixtures import Run
from thaw.config.reader import read_tree
from thaw.pipeline import facts, tables

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
RATE = "unfreeze.phases.top.lr"
_PATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
PIPELINE = {
    "cmd": "python answering.py",
    "deps": ["data/prepared/samples.csv"],
    "params": ["unfreeze"],
    "outs": ["models/phases/head", "models/phases/top", "reports/selection.json"],
}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A repository whose one stage answers for 96 images, and has run; its rate is 1e-2."""
    clone = Clone(tmp_path_factory.mktemp("trials") / "project", {"PYTHONPATH": _PATH, "THAW_SCRATCH": ""})
    (clone.root / "data" / "prepared").mkdir(parents=True)
    tables.write(clone.root / "data" / "prepared" / "samples.csv", tiny.samples(96, 2))
    facts.write(clone.root / "model.json", tiny.model_facts(classes=tiny.CLASSES[:2]))
    shutil.copy(ROOT / "tests" / "pipeline" / "answering.py", clone.root)
    tree: dict[str, Any] = read_tree(ROOT / "params.yaml")
    tree["unfreeze"] = {"defaults": {"epochs": 1}, "phases": {"top": {"start": "head", "depth": 1, "lr": 1e-2}}}
    (clone.root / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (clone.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"select": PIPELINE}}), encoding="utf-8")
    (clone.root / ".gitignore").write_text("/.thaw/\n__pycache__/\n", encoding="utf-8")
    for command in (("git", "init", "-q", "-b", "main"), ("dvc", "init", "-q"), ("dvc", "repro", "-q")):
        clone.succeed(*command)
    _commit(clone, "a run")
    return clone


@pytest.fixture
def here(answered: Clone, tmp_path: Path) -> Clone:
    """A copy of the repository, to change."""
    return answered.copy(tmp_path / "project", **answered.environment)


def _commit(clone: Clone, message: str) -> None:
    clone.succeed("git", "add", "--all")
    clone.succeed(*GIT, "commit", "--quiet", "--allow-empty", "-m", message)


def _thaw(clone: Clone, *words: str) -> tuple[int, str]:
    return clone.run("python", "-W", "ignore", "-m", "thaw", *words)


def _trials(clone: Clone) -> dict[str, Any]:
    code, output = _thaw(clone, "trials", "--json")
    assert code == 0, output
    found: dict[str, Any] = json.loads(output)
    return found


def test_trials_are_shown_with_what_they_change_and_how_they_do_in_100_columns(here: Clone) -> None:
    assert "no trial starts from HEAD" in _thaw(here, "trials")[1]
    here.succeed("dvc", "exp", "run", "--temp", "--name", "nearer", "-S", f"{RATE}=1e-3", "select")
    here.succeed(
        "dvc", "exp", "run", "--queue", "--name", "waits", "-S", f"{RATE}=2e-3", "-S", "+head.dropout=0.1", "select"
    )
    assert here.run("dvc", "exp", "run", "--temp", "--name", "nearer", "-S", f"{RATE}=3e-3", "select")[0] != 0
    found = _trials(here)
    rows = {row["name"]: row for row in found["trials"]}
    assert found["baseline"]["kept"] == "top"
    assert (rows["nearer"]["state"], rows["waits"]["state"]) == ("done", "queued")
    assert rows["nearer"]["changed"] == {RATE: 0.001}
    assert rows["waits"]["changed"] == {RATE: 0.002, "head.dropout": 0.1}
    assert rows["waits"]["loss"] is None
    change = rows["nearer"]["change"]
    assert rows["nearer"]["images"] == 96
    assert change["difference"] == pytest.approx(rows["nearer"]["loss"] - found["baseline"]["loss"])
    assert change["low"] < change["difference"] < change["high"] < 0
    output = _thaw(here, "trials")[1]
    assert max(map(len, output.splitlines())) <= 100
    assert re.search(rf"nearer +{RATE}=0.001 +top +0\.\d+ +0\.\d+ +-0\.\d+ +-0\.\d+ to -0\.\d+", output)
    assert re.search(r"waits +head.dropout=0.1 +queued", output)


def test_a_trial_that_failed_and_one_whose_answers_are_away_are_named(here: Clone) -> None:
    here.succeed("dvc", "exp", "run", "--temp", "--name", "gone", "-S", f"{RATE}=1e-3", "select")
    here.succeed(
        "dvc", "exp", "run", "--queue", "--name", "fails", "-S", "++unfreeze.phases.top.weight_decay=0.5", "select"
    )
    here.succeed("dvc", "queue", "start")
    wait_for(lambda: "Failed" in here.run("dvc", "queue", "status")[1], "the failure of a trial")
    shutil.rmtree(here.root / ".dvc" / "cache" / "files")
    rows = {row["name"]: row for row in _trials(here)["trials"]}
    assert rows["fails"]["state"] == "failed"
    assert "is neither in DVC's cache nor in a remote" in rows["gone"]["note"]
    output = " ".join(_thaw(here, "trials")[1].split())
    assert "gone: reports/selection.json of" in output


def test_a_sweep_stops_what_is_worse_finds_what_is_better_and_goes_on(here: Clone) -> None:
    words = ("sweep", f"{RATE}=1e-4,1e-3,0.5", "--study", "rates", "-j", "2")
    code, output = _thaw(here, *words, "--trials", "6")
    assert code == 0, output
    assert "HEAD: loss" in output
    lines = dict(re.findall(r"^(rates-\d+): unfreeze\.phases\.top\.lr=(.*)$", output, re.MULTILINE))
    assert len(lines) == 6
    assert any("0.5: stopped, surely worse than the best" in line for line in lines.values()), output
    assert "`dvc exp apply rates-" in output
    names = {row["name"]: row["changed"] for row in _trials(here)["trials"]}
    best = re.search(r"best of rates: (\S+), loss", output)
    assert best is not None
    assert names[best[1]] == {RATE: 0.001}
    code, output = _thaw(here, *words, "--trials", "7")
    assert (code, len(re.findall(r"^rates-\d+: ", output, re.MULTILINE))) == (0, 1), output
    code, output = _thaw(here, "sweep", f"{RATE}=1e-4,1e-3", "--study", "rates")
    assert (code, output.count("\n")) == (1, 1)
    assert "name another study with --study" in output
    shutil.rmtree(here.root / ".thaw")
    code, output = _thaw(here, *words)
    assert (code, output.count("\n")) == (1, 1)
    assert "there is an experiment rates-" in output


def test_an_interrupted_sweep_leaves_no_process_and_repeats_what_it_had_begun(here: Clone) -> None:
    here.update({"unfreeze.defaults.epochs": 100})
    _commit(here, "slow")
    process = here.start("python", "-m", "thaw", "sweep", f"{RATE}=1e-3,2e-3", "--trials", "1")
    told = here.root / ".thaw" / "sweeps" / "sweep"
    wait_for(lambda: len(list(told.glob("*/top-fold-*"))) == 2, "two folds of a trial")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "the same command goes on with sweep" in output
    assert process.returncode != 0
    assert list((here.root / ".dvc" / "tmp" / "exps" / "standalone").glob("tmp*")) == []
    backend = JournalFileBackend(str(here.root / ".thaw" / "sweeps" / "studies.journal"))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
    head, first, again = study.trials
    assert head.user_attrs == {"experiment": "HEAD"}
    assert (first.state.name, again.state.name) == ("FAIL", "WAITING")
    assert again.system_attrs["fixed_params"] == first.params


def test_a_storage_that_cannot_be_opened_is_one_line(answered: Clone) -> None:
    storage = "sqlite:////nowhere/study.db"
    code, output = _thaw(answered, "sweep", f"{RATE}=1e-4,1e-3", "--storage", storage)
    assert (code, output.count("\n")) == (1, 1), output
    assert f"the storage {storage} cannot be used" in output


def test_trials_side_by_side_compute_each_view_once(finished: Run, tmp_path: Path) -> None:
    clone = finished.clone.copy(tmp_path / "thaw", THAW_SCRATCH="")
    clone.remove_phase("mid")
    clone.succeed("dvc", "repro", "select")
    _commit(clone, "a run")
    shutil.rmtree(clone.root / ".thaw" / "cache")
    for name, rate in (("one", "1e-4"), ("two", "2e-4")):
        clone.succeed("dvc", "exp", "run", "--queue", "--name", name, "-S", f"{RATE}={rate}", "select")
    clone.succeed("dvc", "queue", "start", "-j", "2")
    wait_for(lambda: clone.run("dvc", "queue", "status")[1].count("Success") == 2, "the end of two trials", 600)
    logs = [clone.succeed("dvc", "queue", "logs", name) for name in ("one", "two")]
    computed, wanted = zip(
        *[re.findall(r"activations: (\d+) of (\d+) views computed", log)[0] for log in logs], strict=True
    )
    assert wanted[0] == wanted[1] != "0"
    assert sum(map(int, computed)) == int(wanted[0])
    assert list((clone.root / ".dvc" / "tmp" / "exps").rglob(".thaw")) == []


def test_a_phase_is_removed_in_the_workspace_as_it_is_in_a_copy(finished: Run, tmp_path: Path) -> None:
    clone = finished.clone.copy(tmp_path / "thaw")
    _commit(clone, "a run")
    words = ("dvc", "exp", "run", "-S", "~unfreeze.phases.mid", "select", "--name")
    there = clone.copy(tmp_path / "other")
    assert stages_run(there.succeed(*words, "copy", "--temp")) == ["select"]
    assert stages_run(clone.succeed(*words, "here")) == ["select"]
    there.succeed("dvc", "exp", "branch", "copy", "kept")
    assert clone.lock() == yaml.safe_load(there.succeed("git", "show", "kept:dvc.lock"))["stages"]
    assert "unfreeze@mid" not in clone.lock()
    assert not (clone.root / "models" / "phases" / "mid").exists()
    assert stages_run(clone.succeed("dvc", "repro", "--dry", "select")) == []
    code, output = clone.run(
        "dvc", "exp", "run", "-S", "~unfreeze.phases.top", "-S", "+unfreeze.phases.low.start=top", "select"
    )
    assert code != 0
    assert "unfreeze.phases.low.start" in output
