"""``python -m overdepth`` is ``overdepth``."""

import sys

from overdepth.cli import main

sys.exit(main())
