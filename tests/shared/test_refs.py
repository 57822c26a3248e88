"""References that people type, and what is refused before anything is asked or opened."""

import pytest

from shared.errors import Forbidden, Invalid
from shared.refs import Ref, SourceKind, checked, parse_ref, scan_root


@pytest.mark.parametrize(
    "name",
    ["llama3", "llama3:8b", "qwen2.5-coder:0.5b-instruct-q4_K_M", "user/model", "user_1/my-model:v1.0", "LLaMA3:8B"],
)
def test_names_of_ollamas_library(name: str) -> None:
    assert parse_ref(f"ollama:{name}") == Ref(SourceKind.OLLAMA, name)


@pytest.mark.fault("A-33")
@pytest.mark.parametrize(
    "name",
    [
        "evil.tld/x/y", "evil.tld/x", "registry.ollama.ai/library/llama3", "hf.co/user/repo", "localhost:5000/x",
        "http://evil.tld/x", "https://evil.tld/x/y:latest", "//evil.tld/x", "127.0.0.1/x", "[::1]/x", "user@evil.tld/x",
        "x?insecure=true", "x:y:z", "x/..", "../x", "..", "x:../../y", "", ":latest", "a b", "x\n", "llamä", "-x",
        "x" * 81, "sha256:" + "a" * 81,
    ],
)  # fmt: skip
def test_a_name_with_a_registry_in_it_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        checked(Ref(SourceKind.OLLAMA, name))
    assert caught.value.code == "invalid_ollama_name"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/models", ("/models", ".")),
        ("/models/a/b.gguf", ("/models", "a/b.gguf")),
        ("/models/a/", ("/models", "a")),
        ("/models//a/./b", ("/models", "a/b")),
        ("/models/deep/x", ("/models/deep", "x")),
        ("/disk/x", ("/disk", "x")),
    ],
)
def test_the_nearest_scan_root_is_taken(path: str, found: tuple[str, str]) -> None:
    assert scan_root(path, ["/models", "/disk", "/models/deep"]) == found


@pytest.mark.fault("A-23")
@pytest.mark.parametrize("path", ["/", "/etc", "/modelsx", "/model", "/diskx"])
def test_what_lies_outside_is_not_allowed(path: str) -> None:
    with pytest.raises(Forbidden) as caught:
        scan_root(path, ["/models", "/disk"])
    assert caught.value.code == "path_not_allowed"
    assert "MODEL_SCAN_PATH" in caught.value.hint


@pytest.mark.fault("A-20")
@pytest.mark.parametrize(
    "path",
    ["models", "./models", "../models", "/models/../etc", "/models/..", "//host/share", "/models/\n", "", "/a\x00b"],
)
def test_a_path_that_does_not_say_plainly_where_it_leads_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        scan_root(path, ["/", "/models"])
