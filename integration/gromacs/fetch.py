"""Fetch GROMACS 2025.2 without root; as ``python -m alchemi_bridge.engines.gromacs_packages``."""

import sys

from alchemi_bridge.engines.gromacs_packages import main

if __name__ == "__main__":
    sys.exit(main())
