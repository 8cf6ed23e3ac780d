"""What identifies a network: where it comes from, and what it expects of an image."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thaw.errors import ArtifactError, BackboneError


class Parent(BaseModel):
    """The model that a backbone was taken from, and the one before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """SHA-256 of the manifest of the model's folder."""
    classes: list[str]
    data: str
    """Fingerprint of the images that it was trained on."""
    parent: "Parent | None" = None


class Spec(BaseModel):
    """A backbone's description, as stored in model.json; enough to build it again without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    library: Literal["timm", "torchvision", "python"]
    name: str
    """The architecture's name in its library."""
    in_channels: Literal[1, 3] = 3
    input_px: Annotated[int, Field(gt=0)]
    """Side of the square input, in pixels."""
    mean: tuple[float, float, float]
    """Mean of the pretraining images for each channel, on the scale 0 to 1."""
    std: tuple[float, float, float]
    interpolation: str
    license: str
    url: str
    """Where the weights came from; empty for random weights."""
    sha256: str
    """SHA-256 of the weights file; empty for random weights."""
    keep: str = ""
    """The last block that is kept; empty for the whole network."""
    taps: tuple[str, ...] = ()
    """Blocks whose pooled outputs are features as well; `all` alone stands for every one."""
    pool: Literal["own", "avg", "max", "both"] = "own"
    """How the last maps, or tokens, become features: as the network does it, or by their average, maximum or both."""
    parent: Parent | None = None
    """The model of Thaw that the weights come from, if they do."""

    def taking(self, in_channels: int) -> "Spec":
        """Return the Spec for images of that many channels. Raises: BackboneError for colour where it learned grey."""
        if in_channels > self.in_channels:
            raise BackboneError(
                f"{self.name} was trained on grey images and has no weights for colour; convert the images to grey, "
                "or start from another backbone"
            )
        return self.model_copy(update={"in_channels": in_channels})

    def seeing(self, input_px: int | None) -> "Spec":
        """Return the Spec for squares of another side, in pixels; None changes nothing."""
        return self if input_px is None else self.model_copy(update={"input_px": input_px})

    def cut_to(self, keep: str | None, taps: Sequence[str], pool: str = "own") -> "Spec":
        """Return the Spec of the network up to a block (None keeps all that is left), with taps at others.

        `pool` is how its last maps are pooled.
        """
        return self.model_copy(update={"keep": keep or self.keep, "taps": tuple(taps), "pool": pool})

    @property
    def input_mean(self) -> tuple[float, ...]:
        """Mean to subtract from an input of `in_channels` channels; one value for grey input."""
        return self.mean if self.in_channels == 3 else (sum(self.mean) / 3,)

    @property
    def input_std(self) -> tuple[float, ...]:
        """Deviation to divide an input of `in_channels` channels by; one value for grey input."""
        return self.std if self.in_channels == 3 else (sum(self.std) / 3,)


def read_spec(value: Any) -> Spec:
    """Return the Spec in the `backbone` entry of a model.json. Raises: ArtifactError if it is not one."""
    try:
        return Spec.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "backbone"
        raise ArtifactError(f"model.json: {where}: {first['msg']}; run `dvc repro` to write it again") from None
