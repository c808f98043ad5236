"""Networks in integers: one graph, and what is made of it: a NumPy reference, ONNX, a file of integers, a training."""
