"""Integer-only networks: one graph, with a NumPy reference, ONNX and safetensors writers, and a trainable module."""
