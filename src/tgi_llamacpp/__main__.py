"""`python -m tgi_llamacpp` is `tgi-llamacpp`."""

from __future__ import annotations

import sys

from tgi_llamacpp.cli import main

if __name__ == "__main__":
    sys.exit(main())
