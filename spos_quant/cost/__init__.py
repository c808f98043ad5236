"""Costs of architectures, and the architectures within budgets. Uses numpy and scipy; never torch."""
