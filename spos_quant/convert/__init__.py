"""Any `nn.Module` as a supernet: layers are swapped one by one, nothing is traced."""
