"""A slice of `make fuzz`: each operation with a few cases of its own, good ones and bad ones."""

from pathlib import Path

import pytest

from tests.fuzz.service import FEW_CASES, fuzz, service


@pytest.mark.system
@pytest.mark.fault("A-1", "A-7", "A-9", "A-19")
def test_no_answer_that_the_document_does_not_know(tmp_path: Path) -> None:
    with service(tmp_path) as yard:
        fuzzed = fuzz(yard.instance.url, tmp_path, *FEW_CASES)
    assert not fuzzed.failures, fuzzed.told
    assert fuzzed.cases > fuzzed.operations > 100
