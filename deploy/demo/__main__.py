"""`python -m deploy.demo [--stay]`: what `modelyard demo` runs."""

import sys

from api.cli.terminal import out, refuse
from deploy.demo.story import tell
from shared.errors import ModelyardError

if __name__ == "__main__":
    try:
        sys.exit(tell(out, stay="--stay" in sys.argv))
    except ModelyardError as error:
        refuse(error)
        sys.exit(1)
