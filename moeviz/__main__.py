"""python -m moeviz lab | doctor | train | experiment | bench"""

from __future__ import annotations

import sys

from moeviz.app.cli import main

if __name__ == "__main__":  # a worker process imports this file too
    sys.exit(main(sys.argv[1:]))
