"""The exported classifier and its answers: predict and serve. Nothing here imports torch."""
