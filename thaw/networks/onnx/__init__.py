"""Networks that other frameworks exported to ONNX: read, folded, and built again as torch modules."""
