"""Features of the frozen network, what they tell, and the output layer on them."""
