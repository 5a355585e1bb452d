"""`python -m pretrain CONFIG` in a checkout is `lumbre pretrain CONFIG`."""

import sys

from lumbre.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
