"""What model files say about themselves, read with hard limits: nothing is mapped, executed or trusted."""

from workers.store.headers.gguf import GgufHeader, GgufTensor, read_gguf
from workers.store.headers.safetensors import SafetensorsHeader, Tensor, read_safetensors
from workers.store.headers.sniff import Content, sniff
from workers.store.headers.torchzip import check_torch_zip

__all__ = [
    "Content",
    "GgufHeader",
    "GgufTensor",
    "SafetensorsHeader",
    "Tensor",
    "check_torch_zip",
    "read_gguf",
    "read_safetensors",
    "sniff",
]
