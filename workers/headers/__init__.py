"""What model files say about themselves, read with hard limits: nothing is mapped, executed or trusted."""

from workers.headers.gguf import GgufHeader, GgufTensor, read_gguf
from workers.headers.safetensors import SafetensorsHeader, Tensor, read_safetensors
from workers.headers.sniff import Content, sniff
from workers.headers.torchzip import check_torch_zip

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
