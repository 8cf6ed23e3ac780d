"""Metrics with intervals, the comparison and choice of phases, calibration, diagnostics, plots."""
