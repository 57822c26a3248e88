"""What of a diffusers folder is loaded, and what that says of it."""

import pytest

from workers.pipelines import image_size, parts, variant, weights

PLAIN, FP16 = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
SHARDS = ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("names", "chosen", "loaded"),
    [
        ([f"unet/{PLAIN}", f"vae/{PLAIN}"], None, [f"unet/{PLAIN}", f"vae/{PLAIN}"]),
        ([f"unet/{PLAIN}", f"unet/{FP16}", f"vae/{PLAIN}"], None, [f"unet/{PLAIN}", f"vae/{PLAIN}"]),
        (
            [f"{part}/{name}" for part in ("unet", "vae") for name in (PLAIN, FP16)],
            "fp16",
            [f"unet/{FP16}", f"vae/{FP16}"],
        ),
        ([f"unet/{PLAIN}", "unet/model.ema.safetensors"], None, [f"unet/{PLAIN}"]),
        ([f"unet/{FP16}", f"vae/{PLAIN}", f"vae/{FP16}"], "fp16", [f"unet/{FP16}", f"vae/{FP16}"]),
        ([f"unet/{FP16}", f"vae/{PLAIN}"], "fp16", [f"unet/{FP16}", f"vae/{PLAIN}"]),
        ([f"unet/{name}" for name in SHARDS], None, [f"unet/{name}" for name in SHARDS]),
        (["vae/model.fp16-00001-of-00002.safetensors"], "fp16", ["vae/model.fp16-00001-of-00002.safetensors"]),
        (["vae/model-00001-of-00002.bf16.safetensors"], "bf16", ["vae/model-00001-of-00002.bf16.safetensors"]),
        ([f"unet/{FP16}", "vae/model.bf16.safetensors"], None, []),  # no edition has all parts
        ([f"unet/{PLAIN}", "sdxl.safetensors", f"extra/{PLAIN}", f"unet/old/{PLAIN}"], None, [f"unet/{PLAIN}"]),
        (["unet/config.json", "unet/diffusion_pytorch_model.bin"], None, []),
    ],
)
def test_one_edition_of_the_weights_is_loaded(names: list[str], chosen: str | None, loaded: list[str]) -> None:
    assert variant(names, {"unet", "vae"}) == chosen
    assert weights(names, {"unet", "vae"}) == loaded


def test_parts_are_what_the_index_gives_a_class() -> None:
    index = {
        "_class_name": "SomePipeline", "_list": ["a", "b"], "unet": ["diffusers", "UNet"], "force_zeros": True,
        "safety_checker": [None, None], "odd": [],
    }  # fmt: skip
    assert parts(index) == {"unet"}


@pytest.mark.parametrize(
    ("configs", "found"),
    [
        ({"unet": {"sample_size": 128}, "vae": {"block_out_channels": [1, 2, 3, 4]}}, 1024),
        ({"transformer": {"sample_size": [32, 64]}}, 512),
        ({"unet": {"sample_size": 32}, "vae": {"block_out_channels": [1, 2]}}, 64),
        ({"transformer": {}, "vae": {"block_out_channels": "odd"}}, None),
        ({"unet": {"sample_size": "odd"}}, None),
        ({"unet": {"sample_size": []}}, None),
        ({"unet": {"sample_size": -1}}, None),
        ({}, None),
    ],
)
def test_the_size_of_its_images(configs: dict[str, dict[str, object]], found: int | None) -> None:
    assert image_size(configs.get) == found
