"""Networks: where they come from, their blocks, the cut, pooling, the input layer."""
