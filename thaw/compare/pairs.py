"""The answers of champion and challenger laid side by side, image by image, and what changes between them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thaw.compare.answers import Answers, Probabilities, in_classes
from thaw.compare.asking import EXPORT, Asked
from thaw.compare.images import Images
from thaw.config.schema import Metric
from thaw.errors import DataError
from thaw.evaluation.metrics import classification_metrics
from thaw.evaluation.verdict import change_of
from thaw.pipeline.report_facts import Figures


@dataclass(frozen=True)
class Pairs:
    """Both answers to each image that is compared."""

    labels: NDArray[np.int64]
    """[images], those of the challenger's run."""
    champion: Probabilities
    """[images, classes] of all classes that either knows; 0 for one that it does not."""
    challenger: Probabilities
    groups: list[str]
    """[images], '' for an image of no group."""
    unnamed: Counter[str]
    """How many images have a label that the champion does not know, by label."""

    def figures(self, metric: Metric, *, draws: int, seed: int) -> tuple[Figures, Figures, Figures]:
        """Return the metrics of champion and challenger, and the change from the one to the other (`change_of`).

        They are accuracy, log loss and `metric`. Where the champion does not know a label, its log loss is infinite and
        left out.
        """
        change = change_of(
            self.labels, self.challenger, self.champion, groups=self.groups, metric=metric, draws=draws, seed=seed
        )
        left_out = {"log_loss", "log_loss_low", "log_loss_high"} if self.unnamed else set()
        names: list[str] = [name for name in ("accuracy", "log_loss", metric) if name not in left_out]
        every = [classification_metrics(self.labels, given) for given in (self.champion, self.challenger)]
        before, after = ({name: found[name] for name in names if name in found} for found in every)
        return before, after, {name: value for name, value in change.items() if name not in left_out}


def paired(
    champion: Answers,
    challenger: Answers,
    images: Images,
    groups: Mapping[str, str],
    *,
    asked: Asked | None = None,
    asked_challenger: Asked | None = None,
) -> Pairs:
    """Return both answers to the images that both have answered for, in their tables or when they were asked.

    groups holds each image's group by id. Where the exported model of the challenger was asked, the tables do not
    count. Raises: DataError if there is no such image.
    """
    told = {} if asked is None else asked.probabilities
    both = {*images.answered(len(champion.classes)), *told}
    if asked_challenger is not None:
        both = {*told} & {*asked_challenger.probabilities}
    ids = [name for name in images.ids if name in both]
    if not ids:
        raise _nothing_in_common(champion, challenger, images)
    labels = challenger.table["label"][ids].tolist()
    classes = sorted({*champion.classes, *challenger.classes})
    return Pairs(
        np.array([classes.index(name) for name in labels], np.int64),
        _together(champion, asked, ids, classes),
        _together(challenger, asked_challenger, ids, classes),
        [groups[name] for name in ids],
        Counter(name for name in labels if name not in champion.classes),
    )


def _together(answers: Answers, asked: Asked | None, ids: Sequence[str], classes: Sequence[str]) -> Probabilities:
    """Return the answers [images, classes]: the exported model's where it was asked, else those of the table."""
    told = {} if asked is None else asked.probabilities
    here = np.array([name in told for name in ids])
    found = np.zeros((len(ids), len(classes)))
    listed = [name for name in ids if name not in told]
    found[~here] = in_classes(answers.probabilities(listed), answers.classes, classes)
    if asked is not None and here.any():
        found[here] = in_classes(np.stack([told[name] for name in ids if name in told]), asked.classes, classes)
    return found


def _nothing_in_common(champion: Answers, challenger: Answers, images: Images) -> DataError:
    return DataError(
        f"{champion.revision.shown} and {challenger.revision.shown} cannot be compared: of the {len(images.ids)} test "
        f"images of the latter {len(images.common)} are test images of the former, and it has learned from "
        f"{len(images.seen)}; run `dvc push` where the champion was made, so that its {EXPORT} can be asked about the "
        "others, or name another champion"
    )
