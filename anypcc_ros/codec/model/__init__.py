"""The Universal Context Model: one algorithm (network), three arithmetics (float, integer torch, integer native)."""
