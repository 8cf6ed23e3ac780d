"""Advice before the time is spent: short trials of how deep unfreezing pays, and at which rate."""
