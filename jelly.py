"""Start Jelly from a checkout: `python jelly.py`. (An `import jelly` finds the package beside this
file.)
"""

import sys

from jelly.cli import main

if __name__ == "__main__":
    sys.exit(main())
