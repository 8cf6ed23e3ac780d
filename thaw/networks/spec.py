"""What identifies a network: where it comes from, and what it expects of an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from thaw.config.reader import PARAMS_FILE
from thaw.errors import BackboneError
from thaw.networks import trust
from thaw.pipeline.model_facts import BackboneSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the images that most networks are pretrained on, red, green and blue, on the scale 0 to 1."""


class Spec(BackboneSpec):
    """A backbone's description, and what changes it."""

    @classmethod
    def of(cls, stored: BackboneSpec, folder: Path, params: Path = PARAMS_FILE) -> Self:
        """Return the Spec that the model.json of a folder holds.

        Raises: BackboneError if it names Python that params.yaml does not name: to build it would run that.
        """
        trust.check_code(stored, folder, params)
        return cls.model_validate(dict(stored))

    def with_channels(self, in_channels: int) -> Self:
        """Return the Spec for images of that many channels. Raises: BackboneError unless it learned those, or RGB."""
        if in_channels != self.in_channels and self.in_channels == 1:
            raise BackboneError(
                f"{self.name} was trained on grey images and has no weights for colour; convert the images to grey, "
                "or start from another backbone"
            )
        if self.in_channels not in (in_channels, 3):
            raise BackboneError(
                f"{self.name} was trained on images of {self.in_channels} channels and has no weights for "
                f"{in_channels}; give it such images, or start from another backbone"
            )
        return self.model_copy(update={"in_channels": in_channels})

    def normalised(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> Self:
        """Return the Spec with other constants for its input, one for each channel or for all; None changes nothing.

        Raises: BackboneError for another number of values than channels.
        """
        given = {name: tuple(values) for name, values in (("mean", mean), ("std", std)) if values is not None}
        for name, values in given.items():
            if len(values) not in (1, self.in_channels):
                raise BackboneError(
                    f"params.yaml: backbone.{name} has {len(values)} values, but the images have {self.in_channels} "
                    "channels; give one for each, or one for all"
                )
        every = self.in_channels
        return self.model_copy(
            update={name: value * every if len(value) == 1 else value for name, value in given.items()}
        )

    def with_input_size(self, input_px: int | None) -> Self:
        """Return the Spec for squares of another side, in pixels; None changes nothing."""
        return self if input_px is None else self.model_copy(update={"input_px": input_px})

    def truncated(self, keep: str | None, taps: Sequence[str], pool: str = "own") -> Self:
        """Return the Spec of the network up to a block (None keeps all that is left), with taps at others.

        `pool` is how its last maps are pooled.
        """
        return self.model_copy(update={"keep": keep or self.keep, "taps": tuple(taps), "pool": pool})

    @property
    def input_mean(self) -> tuple[float, ...]:
        """Mean to subtract from an input of `in_channels` channels."""
        return self._for_input(self.mean)

    @property
    def input_std(self) -> tuple[float, ...]:
        """Deviation to divide an input of `in_channels` channels by."""
        return self._for_input(self.std)

    def _for_input(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return RGB's values for other channels: their average for grey, else in turn, as the weights are."""
        if len(values) == self.in_channels:
            return values
        if self.in_channels == 1:
            return (sum(values) / len(values),)
        return tuple(values[channel % len(values)] for channel in range(self.in_channels))
