"""Where models come from: one file per source, one range engine for the bytes of all of them."""

from shared.errors import Invalid
from shared.refs import SourceKind
from shared.settings import SourceSettings
from workers.sources.base import Source


def source_of(kind: SourceKind, settings: SourceSettings) -> Source:
    """The client of a source.

    Raises:
        Invalid: models of this source cannot be fetched here.
    """
    if kind is SourceKind.HUGGINGFACE:
        from workers.sources.huggingface import HuggingFace

        return HuggingFace(settings)
    if kind is SourceKind.URL:
        from workers.sources.https import Https

        return Https(settings)
    raise Invalid(
        "source_unsupported",
        f"Models from {kind} cannot be fetched by this version.",
        "Fetch the same model from HuggingFace (hf:owner/name) or from a URL.",
    )
