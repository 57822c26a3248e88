"""Where models come from: one file per source, one range engine for the bytes of all of them."""

from shared.errors import Invalid
from shared.refs import SourceKind
from shared.settings import SourceSettings
from shared.trust import NO_GRANTS, Grants
from workers.sources.base import Source


def source_of(kind: SourceKind, settings: SourceSettings, grants: Grants = NO_GRANTS) -> Source:
    """The client of a source.

    Args:
        grants: what a person allowed of the revisions of the model that is asked for.

    Raises:
        Invalid: models of this source cannot be fetched here.
    """
    if kind is SourceKind.HUGGINGFACE:
        from workers.sources.huggingface import HuggingFace

        return HuggingFace(settings, grants)
    if kind is SourceKind.URL:
        from workers.sources.https import Https

        return Https(settings, grants)
    raise Invalid(
        "source_unsupported",
        f"Models from {kind} cannot be fetched by this version.",
        "Fetch the same model from HuggingFace (hf:owner/name) or from a URL.",
    )
