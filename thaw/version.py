"""The version, in its one place: pyproject.toml reads it from here.

It stands in a module that no stage imports. Each stage depends on the code that it can import, so in `thaw/__init__.py`
a new number alone would rerun every stage of every project.
"""

VERSION = "0.1.0"
