"""Bundles made by hand: a whole one, and every way we know of being wrong. The code under test writes none of them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from tests.factories.folders import safetensors

FILES = {
    "acorn": {"config.json": b'{"model_type": "llama"}', "model.safetensors": safetensors((64, 8))},
    "birch": {"config.json": b'{"model_type": "llama", "n": 2}', "model.safetensors": safetensors((32, 8), (3,))},
}
Members = list[tuple[str, bytes]]


def lock_of(files: dict[str, dict[str, bytes]] = FILES, /, **more: Any) -> dict[str, Any]:
    """A lock of these models, as JSON; `more` goes into every entry."""
    models = []
    for model_id, contents in sorted(files.items()):
        listed = [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in sorted(contents.items())
        ]
        entry = {
            "modelId": model_id, "modelType": "llm", "name": model_id.title(), "source": "huggingface",
            "sourceUrl": f"tiny/{model_id}", "revision": "a" * 40, "files": listed,
        }  # fmt: skip
        models.append(entry | more)
    return {"lockVersion": 1, "models": models}


def members(files: dict[str, dict[str, bytes]] = FILES) -> Members:
    return [
        (f"models/{model_id}/{name}", data)
        for model_id, contents in sorted(files.items())
        for name, data in sorted(contents.items())
    ]


def tar(
    lock: Any, contents: Members, change: Callable[[tarfile.TarInfo], None] = lambda _: None, *, form: int = 1
) -> bytes:
    """What Python's own tarfile makes of it; `change` may spoil each member but the lock. `form` 1 is GNU's."""
    raw = lock if isinstance(lock, bytes) else json.dumps(lock, indent=2).encode()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=form) as out:
        for name, data in [("models.lock", raw), *contents]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if name != "models.lock":
                change(member)
            out.addfile(member, io.BytesIO(data))
    return whole.getvalue()


def good() -> bytes:
    return tar(lock_of(), members())


def bad() -> Iterator[tuple[str, bytes]]:
    """Each with its name."""
    whole, lock, rest = good(), lock_of(), members()
    yield "empty", b""
    yield "not a tar", b"\x1f\x8b" + whole
    yield "zeros", bytes(10240)
    yield "a byte short", whole[:-1]
    yield "without its end", whole[:-10240]
    yield "cut in a file", whole[: len(whole) // 2]
    yield "cut after the lock", whole[:5120]
    yield "a byte more", whole + b"\0"
    yield "another bundle behind it", whole + whole
    yield "something in its last zeros", whole[:-1] + b"\1"
    yield "no lock", tar(lock, rest)[512 * 9 :]
    yield "lock last", tar(b"{}", rest)
    yield "reordered", tar(lock, rest[::-1])
    yield "a member doubled", tar(lock, [rest[0], *rest])
    yield "a member missing", tar(lock, rest[1:])
    yield "a member more", tar(lock, [*rest, ("models/acorn/extra.json", b"{}")])
    yield "renamed", tar(lock, [("models/acorn/other.json", rest[0][1]), *rest[1:]])
    yield "another byte in a file", whole.replace(b'"n": 2', b'"n": 3')
    yield "old tar", tar(lock, rest, form=tarfile.USTAR_FORMAT)
    yield from _types(lock, rest)
    yield from _headers(lock, rest)
    yield from _locks(lock, rest)


def _types(lock: Any, rest: Members) -> Iterator[tuple[str, bytes]]:
    kinds = {
        "symbolic link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE,
        "pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE, "sparse": tarfile.GNUTYPE_SPARSE,
        "contiguous": tarfile.CONTTYPE, "long name": tarfile.GNUTYPE_LONGNAME, "pax": tarfile.XHDTYPE,
    }  # fmt: skip
    for name, kind in kinds.items():

        def spoil(member: tarfile.TarInfo, kind: bytes = kind) -> None:
            member.type, member.linkname = kind, "/etc/passwd"

        yield f"a {name} in place of a file", tar(lock, rest, spoil)


def _headers(lock: Any, rest: Members) -> Iterator[tuple[str, bytes]]:
    yield "a set-user-id file", tar(lock, rest, lambda member: setattr(member, "mode", 0o4755))
    yield "an owner", tar(lock, rest, lambda member: setattr(member, "uname", "root"))
    yield (
        "extended headers",
        tar(
            lock,
            rest,
            lambda member: setattr(member, "pax_headers", {"path": "/etc/cron.d/x"}),
            form=tarfile.PAX_FORMAT,
        ),
    )
    for name in ("../../etc/cron.d/x", "/etc/cron.d/x", "models/acorn/../../x", "models\\acorn\\config.json"):
        yield f"a member named {name}", tar(lock, [(name, rest[0][1]), *rest[1:]])


def _locks(lock: Any, rest: Members) -> Iterator[tuple[str, bytes]]:
    raw = json.dumps(lock)
    yield "lock not JSON", tar(b"{nonsense", rest)
    yield "lock a list", tar([], rest)
    yield "lock nested too deeply", tar(b"[" * 200_000, rest)
    yield "lock with NaN", tar(raw.replace('"llm"', "NaN", 1).encode(), rest)
    yield "lock with half a character", tar(raw.replace("Acorn", "\\ud800").encode(), rest)
    yield "lock with a NUL", tar(raw.replace("Acorn", "\\u0000").encode(), rest)
    yield "lock of another version", tar({**lock, "lockVersion": 2}, rest)
    yield "lock with more than is known", tar({**lock, "run": "rm -rf /"}, rest)
    yield "lock of 17 MiB", tar(raw.encode() + b" " * 17 * 1024**2, rest)
    yield "lock of no bytes", tar(b"", rest)
    yield "a model twice", tar({**lock, "models": [*lock["models"], lock["models"][0]]}, rest)
    for field, value in (
        ("modelId", "../x"), ("modelId", "status"), ("modelType", "../x"), ("revision", "../x"), ("revision", "a/b"),
        ("revision", ""), ("source", "file"), ("source", "ollama"), ("sourceUrl", "../../x"), ("files", []),
        ("askedRevision", "../x"), ("config", []), ("name", "\x1b[2J"),
    ):  # fmt: skip
        yield f"{field} {value!r}", tar(lock_of(**{field: value}), rest)
    for name in ("../x", "/etc/x", "a//b", "./x", "a/../../x", "", "a\\b", "x\n", "a/", "\u202ex"):
        yield f"a file named {name!r}", tar(_with_file(lock, name=name), [("models/acorn/x", rest[0][1]), *rest[1:]])
    for size in (-1, 2**63, 1.5, "23"):
        yield f"a file of {size!r} bytes", tar(_with_file(lock, size=size), rest)
    yield "a file of a terabyte", tar(_with_file(lock, size=2**40), rest)
    yield "a digest that is none", tar(_with_file(lock, sha256="0" * 63), rest)
    yield "another digest", tar(_with_file(lock, sha256="0" * 64), rest)
    yield "a file twice", tar(_with_file(lock, name="model.safetensors"), rest)


def _with_file(lock: Any, **changes: Any) -> Any:
    spoiled = json.loads(json.dumps(lock))
    spoiled["models"][0]["files"][0] |= changes
    return spoiled
