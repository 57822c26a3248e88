"""What model files say about themselves, read with hard limits: nothing is mapped, executed or trusted."""

from workers.store.headers.gguf import GgufHeader, GgufTensor, read_gguf
from workers.store.headers.safetensors import SafetensorsHeader, Tensor, read_safetensors
from workers.store.headers.sniff import Content, sniff

__all__ = [
    "Content",
    "GgufHeader",
    "GgufTensor",
    "SafetensorsHeader",
    "Tensor",
    "read_gguf",
    "read_safetensors",
    "sniff",
]
