"""Bring folders that dvc.lock knows and the workspace lacks, from DVC's cache or its remote.

`dvc repro --pull` brings a stage's deps only where their path is not there. `select` depends on models/phases, a folder
of one out for each phase, which is there as soon as one phase is; the others would stay missing.
"""

from collections.abc import Sequence
from pathlib import Path

from thaw.errors import ArtifactError


def bring(folders: Sequence[Path]) -> None:
    """Check out those of these outs that are missing, fetching them where the cache lacks them.

    Raises: ArtifactError if one cannot be had.
    """
    missing = [folder for folder in folders if not folder.exists()]
    if not missing:
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    names = [folder.as_posix() for folder in missing]
    try:
        with Repo() as repo:
            repo.fetch(names)  # not pull: the repro that runs this stage holds the locks of the workspace
            for name in names:
                (out,) = repo.find_outs_by_path(name)
                out.checkout(force=True)
                print(f"{name} was missing, and is brought from DVC's cache")
    except DvcException as error:
        raise ArtifactError(
            f"{', '.join(names)} cannot be brought from DVC's cache or remote ({error}); run `dvc repro` without "
            "--allow-missing"
        ) from None
