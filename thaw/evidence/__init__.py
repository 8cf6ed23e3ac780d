"""What a result is worth: metrics, intervals, comparisons, the choice between phases, and plots."""
