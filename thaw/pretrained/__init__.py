"""Where a network and its weights come from: libraries, files, your own code, a model made before, ONNX."""
