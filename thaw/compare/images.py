"""Which test images two runs have in common, and which of the others the champion may be asked about."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import pandas as pd

from thaw.compare.answers import Answers

SAMPLES = "data/prepared/samples.csv"
COLUMNS = ("id", "path", "label", "split", "group", "sha256")


@dataclass(frozen=True)
class Images:
    """The challenger's test images by id, which follows from their content, and what they are to the champion."""

    ids: list[str]
    """All of them, in order."""
    common: list[str]
    """The champion was tested on them, too."""
    relabelled: list[str]
    """Those of the common ones whose label has changed."""
    new: list[str]
    """The champion was not tested on them."""
    seen: list[str]
    """Those of the new ones that the champion has learned from, or may have: it is not asked about them."""
    gone: int
    """How many test images of the champion are none of the challenger's."""

    def answered(self, num_classes: int) -> list[str]:
        """Return the images for which predictions.csv of a champion of so many classes says what must be known.

        It holds the probabilities of the answer and of the label at that time. If the label is another one now, that is
        all of two classes, but not of more. Then no relabelled image counts: to keep those whose new label was the
        answer would favour the champion.
        """
        lacking = {*self.relabelled} if num_classes > 2 else set()
        return [name for name in self.common if name not in lacking]

    def asked(self, num_classes: int, *, every: bool) -> list[str]:
        """Return the images that the exported model of the champion must answer for; `every` asks for the common ones.

        Not those that it has learned from.
        """
        rest = {*self.seen} if every else {*self.seen, *self.answered(num_classes)}
        return [name for name in self.ids if name not in rest]


def matched(champion: Answers, challenger: Answers, seen: AbstractSet[str]) -> Images:
    """Return how the test images of two runs go together; `seen` are ids that the champion may have learned from."""
    ids, known = sorted(challenger.table.index), {*champion.table.index}
    common, new = [name for name in ids if name in known], [name for name in ids if name not in known]
    before, now = champion.table["label"].to_dict(), challenger.table["label"].to_dict()
    return Images(
        ids=ids,
        common=common,
        relabelled=[name for name in common if before[name] != now[name]],
        new=new,
        seen=[name for name in new if name in seen],
        gone=len(known - {*ids}),
    )


def learned_from(champion: pd.DataFrame, tested: pd.DataFrame) -> set[str]:
    """Return the ids of tested images that the champion has learned from, or an image of whose group it has.

    champion is samples.csv of its run, tested the rows of the challenger's test images.
    """
    development = champion[champion["split"] != "test"]
    contents, groups = {*development["sha256"]}, {*development["group"]} - {""}
    hit = tested["sha256"].isin(contents) | tested["group"].isin(groups)
    return {*tested["id"][hit]}
