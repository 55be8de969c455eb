"""python -m moeviz lab | doctor | train | experiment | bench"""

from __future__ import annotations

import sys

from moeviz.cli import main

sys.exit(main(sys.argv[1:]))
