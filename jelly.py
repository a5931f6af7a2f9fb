"""Start Jelly from a checkout: `python jelly.py`. (An `import jelly` finds the package beside this
file.)
"""

import sys

# Before the first import, and in the syntax of old versions: they cannot even read the package.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("jelly: Jelly needs Python 3.11 or newer, and this is Python %d.%d." % sys.version_info[:2])  # noqa: UP031

from jelly.cli import main

if __name__ == "__main__":
    sys.exit(main())
