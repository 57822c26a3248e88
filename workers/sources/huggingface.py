"""HuggingFace and mirrors that speak its protocol: a repository, pinned to the commit it had when it was asked."""

import functools
import importlib
import ssl
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from shared.errors import Failed, Forbidden, Invalid, ModelyardError, NotFound, Unavailable, Unsafe
from shared.refs import Ref
from shared.settings import SourceSettings
from shared.trust import NO_GRANTS, Grants, Trust
from workers.bounded import in_time
from workers.formats import ARCHIVES, CODE, LOADABLE, PICKLES, TORCH
from workers.sources.base import RemoteFile, Snapshot
from workers.sources.names import check_names
from workers.sources.wire import answers

MAX_FILES = 5_000
MAX_LISTING_BYTES = 10 * 1024**2
LISTING_SECONDS = 60.0
PATIENCE = 3
"""Read timeouts that a whole request may take, with its redirects, its head and its body."""
MAX_NAMED = 20

GIT_FILES = frozenset({".gitattributes", ".gitignore", ".gitmodules"})
OTHER_FRAMEWORKS = frozenset(
    {".msgpack", ".h5", ".onnx", ".onnx_data", ".tflite", ".ot", ".mlmodel", ".mlpackage", ".pb", ".xml"}
)
OTHER_FOLDERS = frozenset({"onnx", "openvino", "coreml"})


class HuggingFace:
    """The Hub at the operator's endpoint, with the operator's token.

    Args:
        grants: what a person allowed of the model's revisions.
    """

    def __init__(self, settings: SourceSettings, grants: Grants = NO_GRANTS) -> None:
        from huggingface_hub import HfApi

        self._endpoint = settings.hf_endpoint.rstrip("/")
        self._token = settings.hf_token.get_secret_value() if settings.hf_token is not None else ""
        self._timeout = settings.read_timeout
        self._grants = grants
        _bounded_client(settings.ca_bundle, settings.read_timeout)
        # token False: never one that happens to lie on this machine
        self._api = HfApi(endpoint=self._endpoint, token=self._token or False)

    def resolve(self, ref: Ref, checksum: str | None = None) -> Snapshot:
        """The files of a repository that can be loaded without running its code, at one commit.

        `Snapshot.revision` is the commit; `checksum` is not used, since the Hub names a digest for every file.

        Raises:
            NotFound: `source_not_found`.
            Forbidden: `auth_required`, `license_required`, with the page to visit.
            Invalid: `source_invalid_filename`, `source_too_large`, `unsupported_format`.
            Unsafe: `unsafe_format`, its weights are pickles only.
            Unavailable: the Hub is down, busy or limiting.
        """
        # one bounded request; list_repo_tree sleeps and retries on its own for as long as a server tells it to
        info = self._asked(ref, lambda: self._info(ref, files_metadata=True))
        if info.gated:
            self._admitted(ref, info)
        siblings = info.siblings or []
        if len(siblings) > MAX_FILES:
            raise too_large(f"it has {len(siblings)} files, more than {MAX_FILES}")
        if info.sha is None:
            raise Failed("protocol_error", "The Hub names no commit for this repository.", "Check HF_ENDPOINT.")
        check_names(sibling.rfilename for sibling in siblings)
        wanted, skipped = choose((sibling.rfilename for sibling in siblings), self._grants.of(info.sha))
        files = [self._file(ref.location, info.sha, sibling) for sibling in siblings if sibling.rfilename in wanted]
        ordered = tuple(sorted(files, key=lambda file: file.name))
        return Snapshot(info.sha, ordered, tuple(sorted(skipped)), gated=bool(info.gated))

    def _admitted(self, ref: Ref, info: Any) -> None:
        """Raises: Forbidden, with the bytes that wait behind the gate: who may not have them may still know that."""
        try:
            self._asked(ref, lambda: self._api.auth_check(ref.location))
        except Forbidden as refusal:
            sizes = [each.size for each in info.siblings or [] if type(each.size) is int]
            told = {"gated": True, "size": sum(sizes) or None, "revision": info.sha}
            raise Forbidden(refusal.code, refusal.message, refusal.hint, told) from refusal

    def knows(self, ref: Ref) -> bool:
        """Whether the repository still has that commit: one that was made anew under the same name does not.

        Raises:
            Forbidden, Unavailable, Failed: as `resolve`.
        """
        try:
            self._asked(ref, lambda: self._info(ref))
        except NotFound:
            return False
        return True

    def _info(self, ref: Ref, **more: Any) -> Any:
        return self._api.model_info(ref.location, revision=ref.revision, timeout=self._timeout, **more)

    def _asked(self, ref: Ref, ask: Callable[[], Any]) -> Any:
        try:
            return in_time(PATIENCE * self._timeout, ask)
        except ModelyardError:
            raise
        except TimeoutError as error:
            raise Unavailable(
                "source_timeout", "The Hub does not come to an answer.", "It will be tried again."
            ) from error
        except Exception as error:
            raise self._meaning(error, ref) from error

    def _file(self, repo: str, commit: str, sibling: Any) -> RemoteFile:
        from huggingface_hub import hf_hub_url

        lfs = sibling.lfs
        size, digest = (lfs.size, lfs.sha256) if lfs is not None else (sibling.size, sibling.blob_id)
        if type(size) is not int or size < 0 or not isinstance(digest, str):
            raise Failed(
                "protocol_error", f"The Hub names no size or no digest for {sibling.rfilename}.", "Check HF_ENDPOINT."
            )
        return RemoteFile(
            name=sibling.rfilename,
            url=hf_hub_url(repo, sibling.rfilename, revision=commit, endpoint=self._endpoint),
            size=size,
            sha256=digest.lower() if lfs is not None else None,
            git_sha1=digest if lfs is None else None,
            headers={"Authorization": f"Bearer {self._token}"} if self._token else {},
        )

    def _meaning(self, error: Exception, ref: Ref) -> ModelyardError:
        from huggingface_hub import errors

        page = f"{self._endpoint}/{ref.location}"
        response = getattr(error, "response", None)
        if isinstance(error, errors.GatedRepoError):
            return Forbidden(
                "license_required",
                f"{ref.location} wants its licence to be accepted first.",
                f"Accept it at {page} with the account of HF_TOKEN, then retry.",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return NotFound(
                "source_not_found", f"{ref.location} has no revision {ref.revision!r}.", f"See {page} for its branches."
            )
        if isinstance(error, errors.HFValidationError):
            return Invalid("invalid_repository", f"{ref.location!r} is not a repository.", "Use owner/name.")
        if response is not None:
            return self._refusal(response, ref, page)
        return self._silence(error)

    def _silence(self, error: Exception) -> ModelyardError:
        """What it means that there was no answer, or none that a Hub would give."""
        if _has_cause(error, ssl.SSLCertVerificationError):
            return Forbidden(
                "tls_error",
                f"The certificate of {self._endpoint} cannot be trusted.",
                "If it is your own authority's, set MODELYARD_SOURCES__CA_BUNDLE to its file.",
            )
        if isinstance(error, ValueError | TypeError | KeyError):
            return Failed("protocol_error", f"{self._endpoint} does not answer like a Hub.", "Check HF_ENDPOINT.")
        return Unavailable(
            "source_unreachable",
            f"The Hub at {self._endpoint} cannot be reached.",
            "Check HF_ENDPOINT and the network.",
        )

    def _refusal(self, response: Any, ref: Ref, page: str) -> ModelyardError:
        status = response.status_code
        if status in answers.DENIED:
            return Forbidden(
                "auth_required",
                f"The Hub does not show {ref.location} to this account; it is private, gated or does not exist.",
                f"Check {page}, set HF_TOKEN to a token that may read it, then retry.",
            )
        if status in answers.MISSING:
            return NotFound("source_not_found", f"There is no repository {ref.location}.", f"Check {page}.")
        if status in answers.PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unavailable(
                "source_busy",
                f"The Hub answered {status}: it asks to come back later.",
                "",
                None,
                answers.seconds_after(response.headers.get("Retry-After", "")),
            )
        return Failed("source_refused", f"The Hub answered {status}.", f"Check {page} in a browser.")


def choose(names: Iterable[str], trust: Trust) -> tuple[set[str], set[str]]:
    """Which files of a repository to bring, and which to leave: code, pickles, archives, other frameworks' weights.

    Pickles come only where they are allowed and nothing safer is there, code only where it is allowed.

    Raises:
        Unsafe: code `unsafe_format`, nothing is left to load but pickles.
        Invalid: code `unsupported_format`, there are no weights that a runner of ours loads.
    """
    listed = list(names)
    safe = any(_suffix(name) in LOADABLE for name in listed)
    torch = any(_suffix(name) in TORCH for name in listed)
    if not safe and any(_suffix(name) in PICKLES for name in listed) and not (torch and trust.pickle):
        raise Unsafe(
            "unsafe_format",
            "This repository has its weights only as pickles, which run code of the publisher when loaded.",
            f"Choose a repository with .safetensors or .gguf files. {trust.way(pickle=True) if torch else ''}".strip(),
            {
                "revision": trust.revision,
                "files": sorted(name for name in listed if _suffix(name) in PICKLES)[:MAX_NAMED],
            },
        )
    if not safe and not torch:
        raise Invalid(
            "unsupported_format",
            "This repository has no weights that can be loaded here.",
            "Choose a repository with .safetensors or .gguf files.",
        )
    unsafe = (PICKLES if safe else PICKLES - TORCH) | ARCHIVES | (frozenset() if trust.remote_code else CODE)
    skipped = {name for name in listed if PurePosixPath(name).name in GIT_FILES or _suffix(name) in unsafe}
    rest = set(listed) - skipped
    foreign = {
        name for name in rest if _suffix(name) in OTHER_FRAMEWORKS or not _folders(name).isdisjoint(OTHER_FOLDERS)
    }
    return rest - foreign, skipped | foreign


def too_large(reason: str) -> Invalid:
    """A listing over our limits."""
    return Invalid("source_too_large", f"This repository is refused: {reason}.", "Choose a smaller repository.")


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _folders(name: str) -> set[str]:
    parts = PurePosixPath(name.lower()).parts[:-1]
    return {*parts, *(PurePosixPath(part).suffix.lstrip(".") for part in parts if part.endswith(".mlpackage"))}


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


@functools.cache
def _bounded_client(ca_bundle: Path | None, timeout: float) -> None:
    """Give huggingface_hub a client that ends: timeouts on every request, a limit on what an answer may weigh.

    Its client is one per process, so this is done once per setting.
    """
    from huggingface_hub import get_session, set_client_factory

    # huggingface_hub 1 uses httpx, 2 uses httpx2; both have the same public classes
    library = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    context = ssl.create_default_context(cafile=str(ca_bundle) if ca_bundle else None)

    class Bounded(library.HTTPTransport):  # type: ignore[name-defined,misc] # its module is known only while running
        def handle_request(self, request: Any) -> Any:
            request.headers["Accept-Encoding"] = "identity"
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
            response = super().handle_request(request)
            try:
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise answers.protocol_error("it compresses what it was asked not to")
                body = _read_within(response.stream)
            finally:
                response.close()
            headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"transfer-encoding"]
            return library.Response(response.status_code, headers=headers, content=body, request=request)

    set_client_factory(lambda: library.Client(transport=Bounded(verify=context), follow_redirects=True))


def _read_within(stream: Iterable[bytes]) -> bytes:
    body, until = bytearray(), time.monotonic() + LISTING_SECONDS
    for part in stream:
        body += part
        if len(body) > MAX_LISTING_BYTES:
            raise too_large(f"its listing is over {MAX_LISTING_BYTES // 1024**2} MiB")
        if time.monotonic() > until:
            raise Unavailable(
                "source_too_slow", "The Hub takes too long to list the repository.", "It will be tried again."
            )
    return bytes(body)
