"""`python -m sccagn_scale` is the command `sccagn-scale`."""

import sys

from sccagn_scale.cli import main

if __name__ == "__main__":
    sys.exit(main())
