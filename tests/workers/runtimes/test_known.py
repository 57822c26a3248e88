"""Every runtime has a tiny question of its own."""

import pytest

from shared.errors import Failed, ModelyardError
from shared.settings import Settings
from shared.states import Output
from workers.runtimes.known import all_runtimes, ask_tiny

NOBODY = "http://127.0.0.1:9"


def test_each_is_known_by_its_name_and_what_it_makes() -> None:
    found = [(runtime.name, runtime.output) for runtime in all_runtimes(Settings())]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("name", "output"),
    [(runtime.name, runtime.output) for runtime in all_runtimes(Settings()) if runtime.name != "ollama"],
)
def test_each_is_asked(name: str, output: Output) -> None:
    with pytest.raises(Failed) as caught:
        ask_tiny(Settings(), name, output, NOBODY, "key", None)
    assert caught.value.code == "probe_failed"


def test_ollama_is_asked_by_its_own_name_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", NOBODY)
    with pytest.raises(ModelyardError) as caught:
        ask_tiny(Settings(), "ollama", Output.TEXT, NOBODY, "", "tinyllama:1.1b")
    assert caught.value.code in ("ollama_not_running", "ollama_missing")


def test_of_another_version_nothing_is_said() -> None:
    with pytest.raises(Failed) as caught:
        ask_tiny(Settings(), "a later one", Output.TEXT, NOBODY, "key", None)
    assert caught.value.code == "unknown_runtime"
