"""`python -m finetune CONFIG` in a checkout is `lumbre finetune CONFIG`."""

import sys

from lumbre.cli import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
