"""Trials: experiments of DVC beside the run that they start from, and the search for better values."""
