"""Whether an adapter fits its base: a table."""

import pytest

from shared.db.bases import judge
from shared.db.tables import Model


def base(model_id: str, source_url: str) -> Model:
    return Model(
        id=model_id, type="image_gen", name="b", source="huggingface", source_url=source_url, created_at=0, updated_at=0
    )


SDXL = base("sdxl-base-1.0", "stabilityai/stable-diffusion-xl-base-1.0")


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", True),
        ("StabilityAI/Stable-Diffusion-XL-Base-1.0", True),
        ("mirror/stable-diffusion-xl-base-1.0", True),
        ("runwayml/stable-diffusion-v1-5", False),
        ("sdxl_base_1.0", True),
        ("flux-1-dev", False),
        (None, None),
    ],
)
def test_a_base_is_compared_with_what_the_files_say(wanted: str | None, matches: bool | None) -> None:
    fit = judge(wanted, None, SDXL)
    assert (fit.base, fit.matches) == ("sdxl-base-1.0", matches)
    assert "sdxl-base-1.0" in fit.why or wanted is None


def test_without_a_base_nothing_fits() -> None:
    assert judge("a/b", "named", None) == ("named", None, "Its base 'named' is not in the registry.")
    assert judge("a/b", None, None).base is None
