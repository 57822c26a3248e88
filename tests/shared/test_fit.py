"""The arithmetic of memory: what models need, what was learned, and what stands in the way."""

from typing import Any

import pytest

from api.compatibility import Level, Place, Wanted, judge, level
from shared.db.placement import taken
from shared.fit import (
    MIB,
    RUNTIME_BYTES,
    Basis,
    Footprint,
    Lowered,
    Setting,
    at_rest,
    host_need,
    longest_context,
    most_layers,
    need,
    runnable,
    runtime_of,
)
from shared.states import Holder

GIB = 1024 * MIB
LLAMA_8B: dict[str, Any] = {
    "format": "gguf", "weightBytes": 4_920_734_720, "layers": 32, "kvHeads": 8, "keySize": 128, "valueSize": 128,
    "contextLength": 131_072, "vocabulary": 128_256, "parameterCount": 8_030_261_312,
}  # fmt: skip
"""Llama 3.1 8B in Q4_K_M, as its header has it."""
SDXL: dict[str, Any] = {
    "format": "diffusers", "weightBytes": 6_938_000_000, "quantization": "F16", "parameterCount": 3_469_000_000,
    "imageSize": 1024,
}  # fmt: skip
"""Stable Diffusion XL in 16 bits."""
ON_GPU = Setting("llamacpp", "gpu", 8192)
HD = {"max_resolution": "1280x720"}
NO_LLAMA = {"llamacpp": {"missing": "None here.", "hint": "Build it."}}
RUNTIMES = {
    "llamacpp": {"version": "1"}, "torch": {"version": "2.13.0"}, "diffusers": {"missing": "None.", "hint": "pip"},
}  # fmt: skip
PIPELINES = {"runtimes": {"diffusers": {"version": "0.42.1"}}}
AN_IMAGE = {"facts": SDXL, "model_type": "image_gen"}
TOO_SMALL = ("memory_too_small", Level.NONE)


def test_the_cache_is_a_key_and_a_value_of_every_head_in_every_layer_for_every_token() -> None:
    found = need(LLAMA_8B, 0, ON_GPU)
    assert found.cache == 32 * 8 * (128 + 128) * 8192 * 2 == GIB
    assert found.weights == 4_920_734_720
    assert found.runtime == RUNTIME_BYTES["llamacpp", "gpu"] + 512 * 128_256 * 4
    assert (found.total, found.basis) == (found.weights + found.cache + found.runtime, Basis.ESTIMATED)


@pytest.mark.parametrize(
    ("setting", "tokens"),
    [
        (Setting("torch", "gpu", 8192), 2048),  # torch keeps what there is, and there is never more than that
        (Setting("torch", "gpu", 1024), 1024),
        (Setting("llamacpp", "gpu", 8192), 8192),  # llama.cpp sets all of it aside
    ],
)
def test_a_context_is_as_long_as_it_can_be(setting: Setting, tokens: int) -> None:
    assert need({**LLAMA_8B, "contextLength": 2048}, 0, setting).cache == GIB * tokens // 8192


def test_layers_that_are_not_on_the_gpu_are_on_the_host() -> None:
    half = ON_GPU._replace(lowered=Lowered(gpu_layers=16))
    whole, lower = need(LLAMA_8B, 0, ON_GPU), need(LLAMA_8B, 0, half)
    assert (lower.weights, lower.cache, lower.runtime) == (whole.weights // 2, whole.cache // 2, whole.runtime)
    host = host_need(LLAMA_8B, 0, half)
    assert host is not None
    assert host.at_once == host.least > whole.weights // 2 + whole.cache // 2
    none = ON_GPU._replace(lowered=Lowered(on_cpu=True))
    assert need(LLAMA_8B, 0, none, others=[Footprint(9 * GIB, GIB)]).total == 0
    assert host_need(LLAMA_8B, 0, none) == (at_rest(LLAMA_8B, 0, ON_GPU._replace(device_kind="cpu")),) * 2


@pytest.mark.parametrize(("room", "layers"), [(16 * GIB, 0), (4 * GIB, 19), (GIB // 2, 0)])
def test_the_most_layers_that_fit(room: int, layers: int) -> None:
    assert most_layers(LLAMA_8B, 0, ON_GPU, room) == layers
    if layers:
        assert need(LLAMA_8B, 0, ON_GPU._replace(lowered=Lowered(gpu_layers=layers))).total <= room
        assert need(LLAMA_8B, 0, ON_GPU._replace(lowered=Lowered(gpu_layers=layers + 1))).total > room
    assert most_layers(LLAMA_8B, 0, ON_GPU._replace(device_kind="cpu"), room) == 0


@pytest.mark.parametrize(("bits", "parts"), [("F32", 2), ("F64", 4), ("BF16", 1)])
def test_numbers_of_16_bits(bits: str, parts: int) -> None:
    facts = {"format": "transformers", "weightBytes": 8 * GIB, "quantization": bits}
    on_gpu = Setting("torch", "gpu", 128, Lowered(precision="bfloat16"))
    assert need(facts, 0, on_gpu).weights == 8 * GIB // parts
    host = host_need(facts, 0, on_gpu)
    assert host is not None
    assert host.at_once == host.least < GIB, "they go to the GPU piece by piece"
    drawn = need({**SDXL, "quantization": bits}, 0, on_gpu._replace(runtime="diffusers")).weights
    assert drawn == 3_469_000_000 * 2


def test_what_is_loaded_onto_a_gpu_is_in_the_host_s_memory_first() -> None:
    facts = {"format": "transformers", "weightBytes": 70 * GIB, "quantization": "BF16"}
    host = host_need(facts, 0, Setting("torch", "gpu", 128))
    assert host is not None
    assert host.at_once - host.least == 70 * GIB
    assert host_need(facts, 0, Setting("torch", "cpu", 128)) is None
    assert host_need(facts, 0, Setting("ollama", "gpu", 128)) is None
    images = host_need(SDXL, 0, Setting("diffusers", "gpu", 128))
    assert images is not None
    assert images.least > 6_938_000_000


@pytest.mark.parametrize("facts", [{}, {"format": "diffusers"}, {"format": "gguf", "layers": 32}])
def test_what_files_do_not_tell_is_not_guessed(facts: dict[str, Any]) -> None:
    assert (need(facts, GIB, ON_GPU).weights, need(facts, GIB, ON_GPU).cache) == (GIB, 0)


def test_an_image_takes_a_handful_of_layers_at_its_full_size() -> None:
    setting = Setting("diffusers", "gpu", 8192)
    found = need(SDXL, 0, setting)
    assert found.cache == 1024 * 1024 * 4 * 256 * 2 == 2 * GIB
    assert found.total == found.weights + found.cache + RUNTIME_BYTES["diffusers", "gpu"]
    assert need({**SDXL, "quantization": "F32", "imageSize": 512}, 0, setting).cache == GIB
    on_cpu = need(SDXL, 0, Setting("diffusers", "cpu", 8192))
    assert (on_cpu.weights, on_cpu.cache) == (2 * found.weights, 2 * found.cache), "it has 32 bits there"
    loaded = Footprint(8 * GIB, at_rest(SDXL, 0, setting))
    assert need(SDXL, 0, setting, loaded).total == 10 * GIB, "what it takes to make one comes with use"
    assert [longest_context(SDXL, 0, setting, room) for room in (found.total, found.total - 1)] == [8192, 0]


@pytest.mark.parametrize(
    ("facts", "type_", "runtime", "advice"),
    [
        ({"format": "gguf"}, "llm", "llamacpp", ""), ({"format": "gguf"}, "embedding", "llamacpp", ""),
        ({"format": "transformers"}, "tts", "torch", ""), ({"format": "diffusers"}, "image_gen", "diffusers", ""),
        ({"format": "gguf"}, "image_gen", None, "diffusers folders"),
        ({"format": "diffusers"}, "video_gen", None, "AnimateDiffPipeline"),
        ({"format": "diffusers", "architecture": "AnimateDiffPipeline"}, "animation", "diffusers", ""),
        ({"format": "diffusers"}, "llm", None, "as models of the type `image_gen`"),
        ({"format": "safetensors"}, "llm", None, "bare weights"),
        ({"format": "safetensors"}, "image_gen", None, "bare weights"),
        ({"format": "adapter"}, "llm", None, "transformers folders"), ({}, "embedding", None, "GGUF"),
    ],
)  # fmt: skip
def test_who_runs_what_and_what_to_do_where_nobody_does(
    facts: dict[str, Any], type_: str, runtime: str | None, advice: str
) -> None:
    assert runtime_of(facts, Holder.STORE, type_) == (runtime or "")
    assert advice in runnable(facts, type_)


def test_measurements_take_the_place_of_the_formula() -> None:
    rest = at_rest(LLAMA_8B, 0, ON_GPU)
    others = [Footprint(rest + missed * MIB, rest) for missed in (-300, -200, 900)]
    learned = need(LLAMA_8B, 0, ON_GPU, others=others)
    assert (learned.total, learned.basis) == (rest - 200 * MIB, Basis.CORRECTED)
    own = need(LLAMA_8B, 0, ON_GPU, Footprint(7 * GIB, rest), others)
    assert (own.total, own.basis) == (7 * GIB, Basis.MEASURED)
    assert own.spread < learned.spread < need(LLAMA_8B, 0, ON_GPU).spread
    torch = Setting("torch", "gpu", 8192)
    later = need(LLAMA_8B, 0, torch, Footprint(7 * GIB, at_rest(LLAMA_8B, 0, torch)))
    assert later.total == 8 * GIB, "its cache comes with use"


def test_less_than_its_weights_it_never_takes() -> None:
    odd = [Footprint(0, 100 * GIB)]
    assert need(LLAMA_8B, 0, ON_GPU, others=odd).total == 4_920_734_720


def test_the_longest_context_that_fits() -> None:
    takes = need(LLAMA_8B, 0, ON_GPU).total
    assert longest_context(LLAMA_8B, 0, ON_GPU, takes) == 8192
    assert longest_context(LLAMA_8B, 0, ON_GPU, takes - GIB // 2) == 4096
    assert longest_context(LLAMA_8B, 0, ON_GPU, GIB) == 0
    assert longest_context({}, GIB, ON_GPU, 2 * GIB) == 8192, "no cache is known of"


@pytest.mark.parametrize(
    ("kind", "told", "before", "after", "found"),
    [
        ("cpu", None, 9 * GIB, 9 * GIB, 3 * GIB),
        ("cpu", 2 * GIB, None, None, 5 * GIB),  # its server uses a GPU that is none of our devices
        ("gpu", 2 * GIB, 20 * GIB, 14 * GIB, 2 * GIB),  # its server knows best
        ("gpu", None, 20 * GIB, 14 * GIB, 6 * GIB),  # what it has on the host says nothing of the GPU
        ("gpu", None, 20 * GIB, 21 * GIB, None),  # somebody else let go meanwhile
        ("gpu", None, None, 14 * GIB, None),
        ("gpu", None, 20 * GIB, None, None),
    ],
)
def test_what_is_measured_is_the_device_s_memory(
    kind: str, told: int | None, before: int | None, after: int | None, found: int | None
) -> None:
    assert taken(kind, 3 * GIB, told, before, after) == found


def judged(place: dict[str, Any] | None = None, disk_free: int | None = None, **wanted: Any) -> list[tuple[str, Level]]:
    given = {"facts": LLAMA_8B, "size": 4_920_734_720, **wanted}
    runtime = runtime_of(given["facts"], Holder.STORE, given.get("model_type", "llm"))
    given["setting"] = ON_GPU._replace(runtime=runtime)
    found = judge(
        Wanted(**given, need=need(given["facts"], given["size"], given["setting"])),
        Place(
            **{"kind": "gpu", "memory_total": 24 * GIB, "memory_free": 20 * GIB, "runtimes": RUNTIMES, **(place or {})}
        ),
        disk_free,
    )
    assert all(issue.message and issue.recommendation for issue in found)
    return [(issue.code, issue.level) for issue in found]


@pytest.mark.parametrize(
    ("place", "wanted", "issues"),
    [
        ({}, {}, []),
        ({"memory_free": 5 * GIB}, {}, [("memory_in_use", Level.PARTIAL)]),
        ({"memory_free": None}, {}, []),
        ({"memory_total": 6 * GIB, "memory_free": 6 * GIB}, {}, [("context_too_long", Level.PARTIAL)]),
        ({"memory_total": 4 * GIB, "memory_free": 4 * GIB}, {}, [("memory_too_small", Level.NONE)]),
        ({"fault": "It fell off the bus."}, {}, [("device_unhealthy", Level.NONE)]),
        ({"runtimes": NO_LLAMA}, {}, [("runtime_missing", Level.NONE)]),
        ({}, {"facts": {"format": "safetensors"}}, [("no_runtime", Level.NONE)]),
        ({}, {"model_type": "image_gen"}, [("no_runtime", Level.NONE)]),
        ({}, {"facts": SDXL}, [("no_runtime", Level.NONE)]),
        ({}, {"facts": SDXL, "model_type": "image_gen"}, [("runtime_missing", Level.NONE)]),
        (PIPELINES, {"facts": SDXL, "model_type": "image_gen"}, []),
        ({**PIPELINES, "memory_total": 8 * GIB}, {"facts": SDXL, "model_type": "image_gen"}, [TOO_SMALL]),
        (PIPELINES, {**AN_IMAGE, "resolution": (1024, 1024)}, []),
        (PIPELINES, {**AN_IMAGE, "resolution": (1536, 1024)}, [("resolution", Level.PARTIAL)]),
        ({}, {"facts": {}}, [("format_unknown", Level.PARTIAL)]),
        ({}, {"facts": {}, "size": 0}, [("format_unknown", Level.PARTIAL), ("size_unknown", Level.PARTIAL)]),
        ({"kind": "cpu"}, {"requirements": {"gpu_memory": "8GB"}}, [("no_gpu", Level.PARTIAL)]),
        ({}, {"requirements": {"gpu_memory": "48GB"}}, [("gpu_memory", Level.PARTIAL)]),
        ({}, {"requirements": {"gpu_memory": "a lot", "torch": ["odd"]}}, []),
        ({}, {"requirements": {"torch": ">=2.0.0"}}, []),
        ({}, {"requirements": {"torch": ">=3"}}, [("torch_version", Level.NONE)]),
        ({}, {"requirements": {"torch": "newest"}}, []),
        ({}, {"requirements": {"modes": ["t2v"]}, "mode": "i2v"}, [("mode_unsupported", Level.NONE)]),
        ({}, {"requirements": {"modes": ["t2v"]}, "mode": "t2v"}, []),
        ({}, {"requirements": HD, "resolution": (1920, 1080)}, [("resolution", Level.PARTIAL)]),
        ({}, {"requirements": HD, "resolution": (720, 1280)}, []),
    ],
)  # fmt: skip
def test_what_stands_in_the_way(place: dict[str, Any], wanted: dict[str, Any], issues: list[tuple[str, Level]]) -> None:
    assert judged(place, **wanted) == issues


def test_the_disk_counts_for_what_is_still_to_come() -> None:
    assert judged(disk_free=GIB, bytes_to_fetch=5 * GIB) == [("disk_too_small", Level.NONE)]
    assert judged(disk_free=GIB) == []


def test_the_worst_issue_decides_and_comes_first() -> None:
    found = judge(
        Wanted(LLAMA_8B, 1, ON_GPU, need(LLAMA_8B, 0, ON_GPU), {"gpu_memory": "48GB", "torch": ">=3"}),
        Place("gpu", 24 * GIB, 24 * GIB, RUNTIMES), None,
    )  # fmt: skip
    assert [issue.code for issue in found] == ["torch_version", "gpu_memory"]
    assert (level(found), level(found[1:]), level([])) == (Level.NONE, Level.PARTIAL, Level.FULL)


def test_what_a_model_has_while_it_works_follows_from_what_it_makes() -> None:
    """Each was measured in a runner of its own, by `make estimates`."""
    torch, llama = Setting("torch", "cpu", 1024), Setting("llamacpp", "cpu", 1024)
    shape = {"layers": 8, "kvHeads": 4, "keySize": 64, "valueSize": 64, "weightBytes": 10}
    narrow, wide = (need({**shape, "quantization": kind}, 10, torch).cache for kind in ("BF16", "F32"))
    assert (narrow, wide) == (8 * 4 * 128 * 1024 * 2, 2 * narrow), "keys and values are as wide as weights of 32 bits"
    assert (
        need({**shape, "quantization": "F32"}, 10, torch._replace(lowered=Lowered(precision="bfloat16"))).cache
        == narrow
    )
    once, twice = (need({**shape, "quantization": kind}, 10, llama).weights for kind in ("Q8_0", "Q4_K_M"))
    assert (once, twice) == (10, 20), "a CPU has some a second time, in another order"
    assert need({**shape, "quantization": "Q4_0"}, 10, llama._replace(device_kind="gpu")).weights == 10
    assert need({"soundNumbers": 512_000, "weightBytes": 10}, 10, torch).cache == 512_000 * 15 * 20 * 4
    moving = {"parameterCount": 10, "quantization": "F32", "imageSize": 512}
    still, film = (need({**moving, "frames": frames}, 10, Setting("diffusers", "cpu", 1)).cache for frames in (0, 32))
    assert (still, film) == (512**2 * 1024 * 4, 2 * still)
