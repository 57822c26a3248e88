"""`modelyard up` with stand-ins, for tests that end it from outside: `python run_up.py DATA_DIR`."""

import sys
from pathlib import Path

from deploy.local import Instance, up
from tests.deploy.conftest import settings_in, stand_ins


def announce(instance: Instance) -> None:
    print("\n".join(str(each.pid) for each in instance.processes() if each.name == "supervisord"), flush=True)


if __name__ == "__main__":
    sys.exit(up(settings_in(Path(sys.argv[1])), flower=False, announce=announce, programs=stand_ins))
