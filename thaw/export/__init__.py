"""A model that others can run: one graph, the files it is exported to, the parity gate, the model card."""
