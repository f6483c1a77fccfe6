"""The command line: ``overdepth compare ...``, ``overdepth reproduce ...``, ``overdepth rates ...``.

Exit status: 0 done, 1 failed (or a claim fails under ``--strict``), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from overdepth._extras import missing_extra


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status; errors are one sentence on stderr."""
    try:
        from overdepth.commands import app
    except KeyboardInterrupt:
        sys.stderr.write("overdepth: interrupted.\n")
        return 130
    except ModuleNotFoundError as error:
        try:
            missing_extra(error, "the command line", "lab")
        except ModuleNotFoundError as said:
            if said is error:
                raise
            sys.stderr.write(f"overdepth: {said}\n")
        return 2
    logging.basicConfig(format="overdepth: %(message)s", level=logging.WARNING)
    return app.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
