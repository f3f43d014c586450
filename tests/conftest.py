"""What every test is pinned to, whatever machine it runs on: the CPU, one thread, fp32.

A machine with a GPU would otherwise take that, one with instructions for bf16 would choose that
format, and the tests compare numbers to the rounding of fp32. Commands are pinned in
`tests/warm.py`. What is tested in other surroundings on purpose lies in `tests/runs/bf16` and
`tests/runs/gpu`.
"""

from __future__ import annotations

import tests.pinned  # noqa: F401  Pins this process; nothing has imported torch yet.
