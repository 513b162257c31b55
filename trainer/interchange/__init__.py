"""Models to and from the layout of Hugging Face: config.json, safetensors, tokenizer."""

from trainer.interchange.layout import Layout, is_layout, read_layout, read_tensors_for

__all__ = ["Layout", "is_layout", "read_layout", "read_tensors_for"]
