"""A server that is just not slow enough to be given up keeps no slot for ever."""

import pytest

from shared.contracts import Download
from shared.errors import Failed
from tests.factories.repository import make_repository
from tests.workers.jobs.conftest import Place

MIB = 1024**2


@pytest.mark.fault("A-61")
def test_what_takes_too_long_is_given_up_and_goes_on_when_it_is_asked_for_again(place: Place) -> None:
    make_repository(place.repositories / "tiny/oak", large=24 * MIB)
    sources = place.services.settings.sources
    sources.deadline, sources.connections = 3.0, 1
    place.hub.throttle(2 * MIB)
    with pytest.raises(Failed) as raised:
        place.pull("oak", "tiny/oak")
    assert raised.value.code == "deadline_exceeded"
    assert "MODELYARD_SOURCES__DEADLINE" in raised.value.hint
    sources.deadline = 600.0
    place.hub.throttle(None)
    assert place.run(Download(model_id="oak"))["refetchedBytes"] == 0
    assert place.status("oak") == "available"
