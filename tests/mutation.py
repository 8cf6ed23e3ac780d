"""Change the code a little, many times over, and count how often a test notices (`make mutants`).

    python -m tests.mutation --sample 65 --seed 16      # mutmut on PATH, as `make mutants` has it
    mutmut show NAME                                    # what a survivor changed

`[tool.mutmut]` in pyproject.toml has the files and the tests. mutmut keeps what it has found in `mutants/`: a run that
was stopped goes on. Of each file so many mutants are drawn, by the seed.
"""

import argparse
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict

_NAME = re.compile(r"(thaw(?:\.[a-z_]+)+)\.x\S*__mutmut_\d+")
_FIRST = "thaw.training.schedule*"
"""What is run first, so that there is a list of all."""
_NOTICED = {"killed", "timeout", "segfault"}


def results() -> dict[str, str]:
    """Return what became of each mutant, by name."""
    told = subprocess.run(["mutmut", "results", "--all", "true"], capture_output=True, text=True, check=True).stdout
    pairs = (line.strip().partition(": ") for line in told.splitlines() if "__mutmut_" in line)
    return {name: state for name, _, state in pairs}


def drawn(names: list[str], number: int, seed: int) -> list[str]:
    """Return so many mutants of each file, or all where there are fewer, in an order that mixes the files."""
    of_file: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        of_file[file_of(name)].append(name)
    chosen = [
        name for _, own in sorted(of_file.items()) for name in random.Random(seed).sample(own, min(number, len(own)))
    ]
    random.Random(seed).shuffle(chosen)
    return chosen


def file_of(name: str) -> str:
    """Return the module that a mutant is in."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return match[1]


def run(names: list[str]) -> None:
    """Run the tests against mutants, one at a time, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(["mutmut", "run", "--max-children", "1", *names], env=environment, check=False)


def main() -> int:
    """Run a sample and print a line for each file and for all of them; 1 if fewer than nine in ten were noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=65, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--again", action="store_true", help="only those that were run before and survived")
    asked = parser.parse_args()
    if not asked.again:
        run([_FIRST])
    seen = results()
    chosen = drawn([*seen], asked.sample, asked.seed)
    todo = [name for name in chosen if seen[name] == "not checked" or (asked.again and seen[name] not in _NOTICED)]
    if todo:
        run(todo)
    states = results()
    counts: dict[str, Counter[bool]] = defaultdict(Counter)
    for name in chosen:
        if states[name] != "not checked":
            counts[file_of(name)][states[name] in _NOTICED] += 1
            if states[name] not in _NOTICED:
                print(f"{name}: {states[name]}")
    for file, count in sorted(counts.items()):
        print(f"{file}: {count[True]} of {count.total()} noticed")
    total = sum(counts.values(), Counter[bool]())
    print(f"in all: {total[True]} of {total.total()} noticed, {100 * total[True] / max(total.total(), 1):.1f} %")
    return int(total[True] < 0.9 * total.total())


if __name__ == "__main__":
    sys.exit(main())
