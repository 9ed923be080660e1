"""Writes a subnet of a run as a file that needs nothing of this library: ONNX, torch.export, or safetensors."""
