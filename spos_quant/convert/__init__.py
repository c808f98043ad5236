"""Converts any `nn.Module` to a supernet. Layers are replaced module by module, without tracing."""
