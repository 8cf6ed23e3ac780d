"""Cache the activations of a phase, or compute them afresh in every pass? An estimate of both, and the cheaper one.

Both give the same training run, bit for bit, so the choice may rest on what a machine measures.
"""

from dataclasses import dataclass

from thaw.config.schema import PhaseParams

_GIB = 2**30
# What a modest disk does; the system's own cache is usually far faster.
_WRITE_BYTES_S = 200e6
_READ_BYTES_S = 500e6
# A prefix that runs beside the training step takes cores and memory from it. On two cores, six blocks: 33 to 36 ms an
# image instead of 28, where the prefix alone takes 2.4.
_BESIDE_TRAINING = 2.0


@dataclass(frozen=True)
class Work:
    """What a phase asks of the activations of one split."""

    num_images: int
    num_views: int
    """Views to cache."""
    missing_views: int
    """Those of them that are not in the cache yet."""
    passes: int
    """How often the phase goes through all images."""
    bytes_an_image: int
    """Size of one view of one image, as stored."""
    seconds_an_image: float
    """To compute that."""

    @property
    def cache_bytes(self) -> int:
        """Size of the whole cache."""
        return self.num_images * self.num_views * self.bytes_an_image

    @property
    def cached_s(self) -> float:
        """Seconds to compute and write what is missing, and to read a view of each image in every pass."""
        computed = self.num_images * self.missing_views * (self.seconds_an_image + self.bytes_an_image / _WRITE_BYTES_S)
        return computed + self.num_images * self.passes * self.bytes_an_image / _READ_BYTES_S

    @property
    def fresh_s(self) -> float:
        """Seconds by which training takes longer if it computes a view of each image in every pass."""
        return self.num_images * self.passes * self.seconds_an_image * _BESIDE_TRAINING


@dataclass(frozen=True)
class Decision:
    """Whether activations are cached, what that is expected to take, and why, in a sentence."""

    cached: bool
    seconds: float
    reason: str


def decide(work: Work, limit_bytes: int) -> Decision:
    """Return the cheaper way to the activations that the space for the cache allows."""
    size = f"{work.num_views} views of {work.num_images} images, {work.cache_bytes / _GIB:.2f} GiB"
    if work.num_views == 0:
        return Decision(False, work.fresh_s, f"fresh views in every pass, about {work.fresh_s:.0f} s")
    if work.cache_bytes > limit_bytes:
        return Decision(
            False,
            work.fresh_s,
            f"{size}: more than compute.cache_gib leaves, {limit_bytes / _GIB:.2f}; computed in every pass, "
            f"about {work.fresh_s:.0f} s",
        )
    compared = f"about {work.cached_s:.0f} s with a cache, {work.fresh_s:.0f} s without"
    if work.cached_s > work.fresh_s:
        return Decision(False, work.fresh_s, f"not cached ({size}): {compared}")
    return Decision(True, work.cached_s, f"cached ({size}): {compared}")


def train_passes(phase: PhaseParams) -> int:
    """Return how often a phase goes through the training images: its epochs, and before them warm start and range test.

    A range test counts as a pass: on few images it takes more, which are then quick.
    """
    warm_starts = (2 if phase.norm_mode != "frozen" else 1) if phase.warm_start else 0
    return phase.epochs + warm_starts + (phase.lr == "auto")


def val_passes(phase: PhaseParams, num_answers: int) -> int:
    """Return how often a phase goes through the validation images: before and after each epoch, and for its answers.

    An average with its start answers as well.
    """
    return 1 + phase.epochs + num_answers * (2 if phase.average else 1)
