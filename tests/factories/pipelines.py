"""Pipelines that make images and videos, with random weights: every part is real, and tiny."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

SIDE = 64
"""Pixels of the images that it is made for."""
WIDTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def stable_diffusion(
    folder: Path, seed: int = 1, dtype: torch.dtype = torch.float32, *, small: bool = True, **saving: Any
) -> Path:
    """A Stable Diffusion as its publisher would save it, in a few megabytes.

    Args:
        small: else its images are decoded by layers as wide as those of the published ones, at 256 pixels a side.
        saving: as diffusers' `save_pretrained` takes it.
    """
    torch.manual_seed(seed)
    widths, decoder, side = ((WIDTH, WIDTH), (WIDTH, WIDTH), SIDE) if small else ((320, 640), (128, 256, 512, 512), 256)
    tokenizer = _tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, projection_dim=WIDTH,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=side // 2 ** (len(decoder) - 1), block_out_channels=widths, layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=decoder, norm_num_groups=8, latent_channels=4, sample_size=side,
        layers_per_block=1 if small else 2, down_block_types=("DownEncoderBlock2D",) * len(decoder),
        up_block_types=("UpDecoderBlock2D",) * len(decoder),
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


def animate_diff(folder: Path, seed: int = 1, *, small: bool = True, most_frames: int = 24) -> Path:
    """An AnimateDiff as its publisher would save it: a Stable Diffusion, and the motion that was made for it."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as still:
        made = StableDiffusionPipeline.from_pretrained(stable_diffusion(Path(still), seed, small=small))
    motion = MotionAdapter(
        block_out_channels=made.unet.config.block_out_channels, motion_layers_per_block=1,
        motion_norm_num_groups=8, motion_num_attention_heads=2, motion_max_seq_length=most_frames,
        use_motion_mid_block=False,
    )  # fmt: skip
    for name, tensor in motion.named_parameters():
        if name.endswith("proj_out.weight"):  # zeros when it begins to learn: then nothing would move
            torch.nn.init.normal_(tensor, std=0.1)
    pipeline = AnimateDiffPipeline(
        vae=made.vae, text_encoder=made.text_encoder, tokenizer=made.tokenizer, unet=made.unet, motion_adapter=motion,
        scheduler=DDIMScheduler(beta_schedule="linear", steps_offset=1, clip_sample=False),
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder
