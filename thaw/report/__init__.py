"""The report: one page, readable without a network, that says whether unfreezing helped and where the model fails."""
