"""Pipelines that make images, with random weights: every part is real, and tiny."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

SIDE = 64
"""Pixels of the images that it is made for."""
WIDTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def stable_diffusion(folder: Path, seed: int = 1, dtype: torch.dtype = torch.float32, **saving: Any) -> Path:
    """A Stable Diffusion as its publisher would save it, in a few megabytes.

    Args:
        saving: as diffusers' `save_pretrained` takes it.
    """
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, projection_dim=WIDTH,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=SIDE // 2, block_out_channels=(WIDTH, WIDTH), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(WIDTH, WIDTH), norm_num_groups=8, latent_channels=4, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        torch.nn.Module.to(part, dtype)
    pipeline.save_pretrained(folder, **saving)
    return folder


def _tokenizer() -> CLIPTokenizer:
    """One token a letter, and one for each that ends a word."""
    letters = list(bytes_to_unicode().values())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    return CLIPTokenizer({token: number for number, token in enumerate(vocabulary)}, [], model_max_length=77)
