"""A team's own project: laid out, brought to the installed version, and run from Python."""
