"""The policy that leaves the building: NumPy and safetensors only; no JAX, no simulator, no dataset."""
