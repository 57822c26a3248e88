"""Asking a runner one question, for probes: short, bounded, and every way to fail is one error."""

import json
import math
from typing import Any, NoReturn

import httpx

from shared.errors import Failed

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
"""The first inference on a GPU may compile kernels."""
MAX_ANSWER_BYTES = 256 * 1024
SHOWN = 300
PNG = "iVBORw0KGgo"
"""How a PNG file begins, in base64."""


def ask(base_url: str, path: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST a JSON object, return the JSON object that comes back. Proxies of the environment are not used.

    Raises:
        Failed: code `probe_failed`; details hold the status and the start of what came back.
    """
    content = bytearray()
    status = 0
    try:
        with (
            httpx.Client(trust_env=False, timeout=TIMEOUT, headers={"Authorization": f"Bearer {key}"}) as client,
            client.stream("POST", base_url + path, json=body) as answer,
        ):
            status = answer.status_code
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    break
    except httpx.HTTPError as error:
        failed(f"it did not answer ({type(error).__name__})", status, bytes(content))
    if status != httpx.codes.OK:
        failed(f"it answered with status {status}", status, bytes(content))
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        failed("its answer is not JSON", status, bytes(content))
    if not isinstance(value, dict):
        failed("its answer is not a JSON object", status, bytes(content))
    return value


def probe_embedding(base_url: str, key: str) -> None:
    """One vector, and a look at its numbers: JSON has no NaN, so a null stands for one that is none.

    Raises:
        Failed: code `probe_failed`.
    """
    check_vector(ask(base_url, "/v1/embeddings", key, {"input": "Hello", "model": "probe"}))


def check_vector(answer: dict[str, Any]) -> None:
    """An answer to `/v1/embeddings` has a vector of numbers.

    Raises:
        Failed: code `probe_failed`.
    """
    data = answer.get("data")
    vector = data[0].get("embedding") if isinstance(data, list) and data and isinstance(data[0], dict) else None
    if not isinstance(vector, list) or not vector:
        failed("no vector came back", 200, json.dumps(answer).encode())
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in vector) or not any(vector):
        failed("its numbers are not finite, or all zero", 200, json.dumps(answer).encode())


def probe_image(base_url: str, key: str) -> None:
    """One small image after one step; the server refuses numbers that are not finite, and an image that shows nothing.

    Raises:
        Failed: code `probe_failed`.
    """
    answer = ask(base_url, "/v1/images/generations", key, {"prompt": "Hello", "size": "64x64", "steps": 1, "seed": 0})
    data = answer.get("data")
    image = data[0].get("b64_json") if isinstance(data, list) and data and isinstance(data[0], dict) else None
    if not isinstance(image, str) or not image.startswith(PNG):
        failed("no image came back", 200, json.dumps(answer).encode())


def failed(why: str, status: int, content: bytes) -> NoReturn:
    """Say that a probe failed, and show what came back."""
    raise Failed(
        "probe_failed",
        f"The model was loaded, but its test inference failed: {why}.",
        "Verify the model's files; if they are whole, this runtime does not fit the model.",
        {"status": status, "answer": content[:SHOWN].decode("utf-8", errors="replace")},
    )
