"""`python -m api`: one API process, for containers and systemd. `modelyard up` starts its own."""

import argparse
import os
import sys

import uvicorn
from pydantic import SecretStr

from api.connections import Connection
from api.security import check_bind, is_loopback
from shared.errors import ModelyardError
from shared.keys import kept_key
from shared.settings import Settings, load

STOP_SECONDS = 20
"""Open event streams would hold uvicorn for ever."""
LONGEST_MESSAGE = 65_536


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m api", description="Bound as MODELYARD_API__HOST and _PORT say.")
    parser.add_argument(
        "--make-key", action="store_true",
        help="where other machines can reach it and MODELYARD_API_KEY is unset: make one at the first start, print it "
        "once, and keep it in the data folder; instead of refusing to start",
    )  # fmt: skip
    options = parser.parse_args()
    try:
        settings = load()
        if options.make_key:
            _make_key(settings)
        check_bind(settings, settings.api.host)
    except ModelyardError as error:
        sys.stderr.write(f"{error.message} {error.hint}\n")
        return 1
    uvicorn.run(
        "api.app:create_app", factory=True, http=Connection, host=settings.api.host, port=settings.api.port,
        access_log=False, timeout_graceful_shutdown=STOP_SECONDS, ws_max_size=LONGEST_MESSAGE,
    )  # fmt: skip
    return 0


def _make_key(settings: Settings) -> None:
    """Raises: Invalid: the data folder cannot keep one."""
    if settings.api_key is not None or is_loopback(settings.api.host):
        return
    key, is_new = kept_key(settings)
    settings.api_key = SecretStr(key)
    os.environ["MODELYARD_API_KEY"] = key  # the application reads its own settings
    if is_new:
        sys.stdout.write(
            f"No MODELYARD_API_KEY was set, so a key was made. It is shown this once:\n\n  {key}\n\n"
            f"  curl -H 'Authorization: Bearer {key}' http://127.0.0.1:{settings.api.port}/api/v1/models\n\n"
            f"It lies in {settings.data_dir}/secrets/api-key. To have another, delete that file.\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
