"""Names that sources give to files."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Invalid
from workers.sources.names import check_names, safe_name


@pytest.mark.fault("A-20", "A-37")
@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/../b", "a/./b", "a//b", "/etc/x", "a/", "..\\x", "C:\\x", "D:foo", "\\\\host\\share",
        "nul\x00", "a\nb", "a\x1b[31m", "a\u202eb", "a\u200bb", "%2e%2e%2fx", "..%c0%af", "．．／x", "CON", "nul.txt",
        "a.", "a ", "~root", "-rf", "$(id)", "`id`", "x" * 241, "é" * 121, "a/" * 600 + "b", "\ud800",
    ],
)  # fmt: skip
def test_names_that_leave_the_folder_or_mislead(name: str) -> None:
    with pytest.raises(Invalid) as raised:
        safe_name(name)
    assert raised.value.code == "source_invalid_filename"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "unet/diffusion.safetensors", ".hidden", "Modèle (1)+v2.gguf", "模型.gguf", "a..b"]
)
def test_honest_names(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.fault("A-37")
@pytest.mark.parametrize(
    "names",
    [["A", "a"], ["a", "a"], ["dir/x", "DIR/X"], ["a", "a/b"], ["a/b", "A"], ["é", unicodedata.normalize("NFD", "é")]],
)
def test_names_that_meet(names: list[str]) -> None:
    with pytest.raises(Invalid):
        check_names(names)


@given(st.text(max_size=40))
def test_whatever_passes_stays_inside(name: str) -> None:
    try:
        safe_name(name)
    except Invalid:
        return
    assert not name.startswith("/")
    assert not {"", ".", ".."} & set(name.split("/"))
    assert "\x00" not in name
    assert "\\" not in name
