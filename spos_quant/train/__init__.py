"""The training loop of supernets and subnets, path samplers, BatchNorm recalibration, scoring and sensitivities."""
