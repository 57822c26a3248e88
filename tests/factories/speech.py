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


def vits(folder: Path, seed: int = 1, speakers: int = 1) -> Path:
    """A VITS as Meta publishes its MMS voices, in about a megabyte."""
    torch.manual_seed(seed)
    config = VitsConfig(
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


def musicgen(folder: Path, seed: int = 1) -> Path:
    """A MusicGen as its publisher would save it, in about two megabytes."""
    torch.manual_seed(seed)
    text = T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=WIDTH // 2, d_ff=WIDTH, num_layers=1, num_heads=2,
    )  # fmt: skip
    codec = EncodecConfig(
        sampling_rate=8000, hidden_size=WIDTH, num_filters=4, num_residual_layers=1, upsampling_ratios=[8, 4],
        codebook_size=CODES, codebook_dim=WIDTH, target_bandwidths=[6.0], num_lstm_layers=1,
    )  # fmt: skip
    decoder = MusicgenDecoderConfig(
        vocab_size=CODES, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, ffn_dim=WIDTH,
        num_codebooks=4, pad_token_id=CODES, bos_token_id=CODES,
    )  # fmt: skip
    model = MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict())
    )
    model.generation_config.decoder_start_token_id = model.generation_config.bos_token_id = CODES
    model.generation_config.pad_token_id = CODES
    model.generation_config.do_sample, model.generation_config.guidance_scale = True, 3.0
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder
