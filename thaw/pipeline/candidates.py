"""The mean of a phase's weights and its start's: what this candidate is called, and where it is kept."""

from pathlib import Path

FOLDER = "average"


def average_name(start: str, phase: str) -> str:
    """Return the candidate's name; no phase can be called so."""
    return f"{start}+{phase}"


def folder_of(phases: Path, candidate: str) -> Path:
    """Return the folder of the head, of a phase or of an average, below models/phases."""
    _, plus, phase = candidate.partition("+")
    return phases / phase / FOLDER if plus else phases / candidate


def display_name(candidate: str) -> str:
    """Return a candidate's name for a sentence."""
    return f"{candidate} (the mean of their weights)" if "+" in candidate else candidate
