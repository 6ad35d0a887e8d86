"""Floor 0: pure functions of tensors. Nothing here knows MMDetection, a config or a registry."""
