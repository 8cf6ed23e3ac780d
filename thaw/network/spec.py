"""What identifies a network: where it comes from, and what it expects of an image."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thaw.errors import ArtifactError


class Spec(BaseModel):
    """A backbone's description, as stored in model.json; enough to build it again without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    library: Literal["timm", "torchvision"]
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
