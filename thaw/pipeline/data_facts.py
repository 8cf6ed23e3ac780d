"""What `prepare` says of a data set, as it lies on disk: settings.json, classes.json and audit.json."""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field

from thaw.pipeline.facts import Facts

Item = TypeVar("Item")
Split = Literal["train", "val", "test"]
Flip = Literal["none", "horizontal", "vertical", "both", "square"]
Range = tuple[float, float]


class Preprocessing(Facts):
    """settings.json: how an image became the packed square."""

    size_px: int
    """Side of the square, in pixels."""
    fit: Literal["crop", "pad", "squash"]
    """How an oblong image became square."""
    test_fraction: float | None = None
    """Share of the images, 0 to 1; absent, as the next two, from an export, which splits nothing."""
    val_fraction: float | None = None
    max_rejected: float | None = None
    max_megapixels: float
    """An image that claims more millions of pixels is refused before it is decoded."""
    background: int
    """Grey level, 0 to 255, behind transparent images and around padded ones."""
    value_range: tuple[Range, ...] | None = None
    """Which values of the files became black and white, where params.yaml says so."""
    plane: Literal["middle", "max", "mean"] | Annotated[int, Field(ge=0)] | None = None
    """Which page or frame of a file is the picture; absent for the first."""
    dtype: Literal["uint16"] | None = None
    """Absent for uint8."""

    @property
    def pixel_type(self) -> str:
        """The type of the packed pixels, uint8 or uint16."""
        return self.dtype or "uint8"


class ClassNames(Facts):
    """classes.json of data/prepared."""

    classes: list[str]
    """In the order of the probabilities."""


class Listed(Facts, Generic[Item]):
    """How many there are, and the first of them, so that audit.json stays readable."""

    count: int
    first: list[Item]


class Conflict(Facts):
    """An image that is listed under more than one label."""

    sha256: str
    paths: list[str]
    labels: list[str]
    """Of each path."""


Place = Annotated[str, Field(pattern=r"^(train|val|test|fold \d+)$")]
"""A split, or a fold of the development images."""


class Group(Facts):
    """Images that are the same, or look alike."""

    images: int
    splits: list[Place]
    """Each split or fold that has one of them."""
    paths: list[str]
    """Of the first of them."""
    labels: list[str]
    """Of each path."""


class NearDuplicates(Listed[Group]):
    """Groups of files that look alike."""

    groups_across_splits: int
    """How many lie in more than one split or fold."""
    contradictory: int = 0
    """How many have more than one label; they are the first on the list."""


class Move(Facts):
    """A unit that is in another split or fold than its hash says, so that each has its share of every class."""

    unit: str
    """The group's name, or the SHA-256 of an image that has none."""
    images: int
    source: Place = Field(alias="from")
    target: Place = Field(alias="to")


class Unvalidated(Facts):
    """Images of which every fold trains on, since they are all there are of a class."""

    unit: str
    """As in `Move`."""
    images: int
    labels: list[str]


class GivenSplitChanged(Facts):
    """An exact copy whose split was given otherwise than that of another copy."""

    path: str
    given: Split | Literal[""]
    """Empty where none was given."""
    now: Split


class MissingClass(Facts):
    """A class that is never tested (test) or never validated on (val): too few images, or the user gave it so."""

    label: str
    split: Split


class ValueRange(Facts):
    """What the values of the files were before they were scaled."""

    used: list[Range]
    """Smallest and largest value of each channel, in the files' own units."""
    clipped_fraction: float
    """Share of the values outside the range that params.yaml gives, 0 to 1."""
    warning: str | None = None


class SplitCounts(Facts):
    """Images of a class in each split; where there are folds, train is all but test and val is 0."""

    train: int
    val: int
    test: int
    folds: list[int] | None = None
    """Images that each fold validates on; absent with one fold."""


class Audit(Facts):
    """audit.json: what there is to know about a data set before a figure from it is trusted."""

    images: int
    channels: int
    dtype: Literal["uint16"] | None = None
    """Absent for uint8."""
    value_range: ValueRange | None = None
    """Absent where no value was scaled."""
    folds: int
    """Parts of the development images of which each is validated on once; 1 is a split into train and val."""
    classes: dict[str, SplitCounts]
    rejected: int
    label_conflicts: Listed[Conflict]
    exact_duplicates: Listed[Group]
    near_duplicates: NearDuplicates
    first_frame_only: Listed[str]
    """Paths of files with several pages or frames, where the first is the picture."""
    moved_by_repair: Listed[Move]
    given_split_changed: Listed[GivenSplitChanged]
    missing: Listed[MissingClass]
    never_validated: Listed[Unvalidated]
    units_of_tied_groups: int
    """Units that hold several of the user's groups, since these share a copy."""
    decisions: list[str] = Field(default_factory=list)
    """What `prepare` decided on its own, a line each, as it printed them."""

    @property
    def lines(self) -> list[str]:
        """What the user should see: the decisions, and a warning about the range of values."""
        warning = self.value_range.warning if self.value_range else None
        return self.decisions + ([warning] if warning else [])
