"""Models that make sound, with random weights: one that speaks, and one that plays what a text asks for."""

import json
from pathlib import Path

import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
    VitsConfig,
    VitsModel,
)

from deploy.demo.models import write_tokenizer

WIDTH = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz' "
VOCABULARY, CODES = 8192, 64


def vits(folder: Path, seed: int = 1, speakers: int = 1, *, small: bool = True) -> Path:
    """A VITS as Meta publishes its MMS voices, in about a megabyte; or as large as those are."""
    torch.manual_seed(seed)
    config = VitsConfig(vocab_size=len(LETTERS) + 1) if not small else VitsConfig(
        vocab_size=len(LETTERS) + 1, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, ffn_dim=WIDTH,
        flow_size=WIDTH, spectrogram_bins=9, duration_predictor_num_flows=1, duration_predictor_filter_channels=WIDTH,
        prior_encoder_num_flows=1, prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1,
        upsample_initial_channel=2 * WIDTH, upsample_rates=[8, 8], upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], depth_separable_num_layers=1,
        num_speakers=speakers, speaker_embedding_size=WIDTH if speakers > 1 else 0,
    )  # fmt: skip
    VitsModel(config).save_pretrained(folder)
    tokens = {letter: number for number, letter in enumerate(["<pad>", *LETTERS])}
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    told = {"tokenizer_class": "VitsTokenizer", "add_blank": True, "normalize": True, "phonemize": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "pad_token": "<pad>"}), encoding="utf-8")
    return folder


def musicgen(folder: Path, seed: int = 1, *, small: bool = True) -> Path:
    """A MusicGen as its publisher would save it, in about two megabytes; or half as large as the smallest of those."""
    torch.manual_seed(seed)
    width, layers, codes = (WIDTH, 1, CODES) if small else (768, 12, 2048)
    heads = {"num_layers": 1, "num_heads": 2} if small else {"num_layers": 6, "num_heads": 8}
    text = T5Config(vocab_size=VOCABULARY, d_model=width, d_kv=width // heads["num_heads"], d_ff=width, **heads)
    codec = EncodecConfig(
        sampling_rate=8000, hidden_size=WIDTH, num_filters=4, num_residual_layers=1, upsampling_ratios=[8, 4],
        codebook_size=CODES, codebook_dim=WIDTH, target_bandwidths=[6.0], num_lstm_layers=1,
    ) if small else EncodecConfig(
        sampling_rate=32_000, upsampling_ratios=[8, 5, 4, 4], num_filters=64, codebook_size=codes,
        target_bandwidths=[2.2],
    )  # fmt: skip
    decoder = MusicgenDecoderConfig(
        vocab_size=codes, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2 if small else 12,
        ffn_dim=width if small else 4 * width, num_codebooks=4, pad_token_id=codes, bos_token_id=codes,
    )  # fmt: skip
    model = MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict())
    )
    model.generation_config.decoder_start_token_id = model.generation_config.bos_token_id = codes
    model.generation_config.pad_token_id = codes
    model.generation_config.do_sample, model.generation_config.guidance_scale = True, 3.0
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder
