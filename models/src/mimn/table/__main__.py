"""`python -m mimn.table`."""

import sys

from mimn.table.run import main

if __name__ == "__main__":
    sys.exit(main())
