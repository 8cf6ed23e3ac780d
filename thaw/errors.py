"""What can go wrong, as one tree.

    ThawError                 prints as one line and exits with code 1
    ├── ParamsError           params.yaml cannot be used as it stands
    ├── DataError             the images, their labels or the manifest
    ├── BackboneError         a network cannot be found, read, traced or cut
    ├── ArtifactError         a file that Thaw wrote is missing, partial or altered
    ├── TrainingError         a run that diverged, or tensors that moved although frozen
    ├── RunError              the run itself: lock held, inputs changed meanwhile, interpreter
    └── MissingLibraryError   a library of an extra is not installed; caught as a failed import as well

Anything that is not a ThawError is a defect of ours and keeps its traceback.
"""

import errno
import re

# What torch says on a processor, torch on CUDA and MPS, and ONNX Runtime; none of them raises MemoryError.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Failed to allocate memory", "bad_alloc", "bad allocation")


class ThawError(Exception):
    """Base of every error that a user can act on; its text is one line that says what to do."""


class ParamsError(ThawError):
    """params.yaml holds a value that cannot be used; the text lists every mistake with its path."""


class DataError(ThawError):
    """The images, labels or manifest given by `data.raw` cannot become a data set."""


class BackboneError(ThawError):
    """The backbone or its weights cannot be found, verified, traced or cut."""


class ArtifactError(ThawError):
    """A folder that a stage wrote is missing, incomplete or not what its manifest says."""


class TrainingError(ThawError):
    """Training cannot go on: the loss is not finite, or a frozen tensor has moved."""


class RunError(ThawError):
    """The run itself must stop: another run holds the lock, or an input changed under it."""


class MissingLibraryError(ThawError, ImportError):
    """A library that an extra brings is not installed."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, at most 160 characters of it; its type's name if it has no text.

    Without the colours that libraries give their messages for a terminal.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return (text.strip() or type(error).__name__).splitlines()[0][:160]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell by the text where a library has no MemoryError: torch is not loaded to ask for its classes."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


def is_of_the_machine(error: BaseException) -> bool:
    """Tell whether an error, or one that it was raised from, is of the moment: a file operation or memory refused.

    The same input may go through the next time, so such an error must never be remembered, nor decide a result. An
    OSError without a number is none: `inspect` raises that for what has no source code.
    """
    while True:
        refused = isinstance(error, OSError) and error.errno is not None
        if refused or isinstance(error, RunError) or is_out_of_memory(error):
            return True
        if error.__cause__ is None:
            return False
        error = error.__cause__
