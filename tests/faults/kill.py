"""The kill campaign: `dvc repro` is killed in every stage, and the next run has to end as if nothing had been.

    python -m tests.faults.kill                           60 kills, about half an hour on two cores
    python -m tests.faults.kill --kills 8 --stages unfreeze@mid
    python -m tests.faults.kill --folder /var/tmp/kill    keeps the finished clone and each result there, and goes on

Half of the kills wait for a moment of `tests/faults/killing.py`, half come at a random part of the known duration.
What must hold is there, too. Exit code 1 if it did not: the copy in which it failed stays. No test here.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.faults.killing import AT_RANDOM, COMMANDS, MOMENTS, Outcome, Plan, Reference, kill
from tests.pipeline.clone import STAGES, Clone, make_clone
from thaw.pipeline import artifacts

_AT_RANDOM = ("stage", "dvc", "group", "group")
_ENDS = ("SIGKILL",), ("SIGTERM",), ("SIGTERM", "SIGKILL")
_KEYS = ("SIGINT",), ("SIGINT", "SIGINT")  # Ctrl-C reaches the group; dvc alone ignores it while a stage runs
_AGAIN = 0.25  # of the kills: the run that goes on is killed, too


def main() -> None:
    """Run what is not done yet, a line for each kill, and end with tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn: stages, moments, signals")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--folder", type=Path, help="for the finished clone and the results; default: a new one")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and so would dvc
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="kill-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    reference = Reference(_finished(folder))
    results = folder / "results.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done: list[tuple[Plan, Outcome]] = []
    for number, plan in enumerate(plans(given.kills, given.seed, given.stages), 1):
        wanted = {"number": number, "plan": json.loads(json.dumps(asdict(plan)))}
        outcome = next((Outcome(**one.pop("outcome")) for one in known if wanted.items() <= one.items()), None)
        if outcome is None:
            outcome = kill(reference, plan, folder / f"kill-{number:02d}")
            with results.open("a") as file:
                file.write(json.dumps(wanted | {"outcome": asdict(outcome)}) + "\n")
        done.append((plan, outcome))
        print(f"{number}/{given.kills} {_told(plan, outcome)}", flush=True)
    _print_tables(done)
    sys.exit(any(outcome.failures for _, outcome in done))


def plans(count: int, seed: int, stages: Sequence[str]) -> list[Plan]:
    """Return the kills: each second one at a moment, all moments in turn, the others at random; all stages as often."""
    rng = random.Random(seed)
    used = dict.fromkeys(stages, 0)
    moments = [name for name, moment in MOMENTS.items() if not moment.training or any("@" in stage for stage in stages)]
    found = []
    for number in range(count):
        name = AT_RANDOM if number % 2 else moments[number // 2 % len(moments)]
        training, targets = (MOMENTS[name].training, MOMENTS[name].targets) if name in MOMENTS else (False, _AT_RANDOM)
        stage = min((one for one in stages if "@" in one or not training), key=lambda one: (used[one], rng.random()))
        used[stage] += 1
        target = rng.choice(targets)
        signals = rng.choices((*_ENDS, *_KEYS), weights=(6, 1, 1, 2, 2) if target == "group" else (6, 1, 1, 0, 0))[0]
        again = round(rng.uniform(0, 0.9), 3) if rng.random() < _AGAIN else None
        found.append(Plan(stage, name, target, signals, round(rng.uniform(0, 0.95), 3), rng.choice([*COMMANDS]), again))
    return found


def _finished(folder: Path) -> Clone:
    """Return a clone in which everything has run once; one that is there already stays."""
    whole, root = folder / "finished.txt", folder / "finished"
    if not whole.exists():
        artifacts.remove(root)
        print("the run without a kill", flush=True)
        output = replace(make_clone(root), cold=True).succeed("dvc", "repro", "--force")
        whole.write_text(output, encoding="utf-8")
    return Clone(root)


def _told(plan: Plan, outcome: Outcome) -> str:
    again = "" if plan.again is None else f", again at {plan.again:.0%}"
    what = f"{plan.stage}: {plan.command}, {plan.moment}, {'+'.join(plan.signals)} to {plan.target}{again}"
    if outcome.failures:
        return f"{what}: FAILED: {'; '.join(outcome.failures)}"
    seen = [f"gone after {outcome.orphan_s:.1f} s"]
    seen += [f"{outcome.epochs} epochs, none twice"] if outcome.epochs else []
    seen += [f"left {', '.join(outcome.left)}"] if outcome.left else []
    seen += [f"doctor: {line.partition(': kept')[0]}" for line in outcome.mended]
    return f"{what}: {'; '.join(seen)} ({outcome.seconds:.0f} s)"


def _print_tables(done: Sequence[tuple[Plan, Outcome]]) -> None:
    """Print counts by stage, by moment, and by signal and target."""
    titles: dict[str, Callable[[Plan], str]] = {
        "stage": lambda plan: plan.stage,
        "moment": lambda plan: plan.moment,
        "signals": lambda plan: f"{'+'.join(plan.signals)} to {plan.target}",
    }
    columns = ("kills", "whole", "left", "mended", "epochs", "twice", "longest s")
    for title, key in titles.items():
        groups: dict[str, list[Outcome]] = {}
        for plan, outcome in done:
            groups.setdefault(key(plan), []).append(outcome)
        print(f"\n{title:26}" + "".join(f"{column:>10}" for column in columns))
        for name, outcomes in [*sorted(groups.items()), ("all", [outcome for _, outcome in done])]:
            print(f"{name:26}" + "".join(f"{value:>10}" for value in _counts(outcomes)))


def _counts(outcomes: Sequence[Outcome]) -> list[Any]:
    return [
        len(outcomes),
        sum(not outcome.failures for outcome in outcomes),
        sum(bool(outcome.left) for outcome in outcomes),
        sum(bool(outcome.mended) for outcome in outcomes),
        sum(outcome.epochs for outcome in outcomes),
        sum(outcome.repeated for outcome in outcomes),
        max((outcome.orphan_s for outcome in outcomes), default=0),
    ]


if __name__ == "__main__":
    main()
