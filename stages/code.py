"""Write a fingerprint of the code of each stage. Run by `dvc repro`, or `python -m stages.code`."""

from pathlib import Path

from thaw.pipeline import artifacts, code, guard

SECTIONS = ()
INPUTS = ("requirements.txt", "stages", "thaw")
OUTS = ("data/code",)


def main() -> None:
    """Write data/code: the files that each stage can import, with their hashes."""
    inputs = [name for name in INPUTS if name != "thaw" or Path(name).exists()]  # not there where Thaw is installed
    out = Path(OUTS[0])
    with guard.stage("code", sections=SECTIONS, inputs=inputs, outs=OUTS), artifacts.new_folder(out) as folder:
        code.check_version(Path(INPUTS[0]))
        code.write(folder, code.running())


if __name__ == "__main__":
    guard.main(main)
