"""Plans of runs in which a setting could do nothing."""

from __future__ import annotations

import pytest

from mtlcli.errors import UserError
from mtlcli.training.schedule import _check_plateau


def test_a_learning_rate_can_fall_only_where_steps_follow() -> None:
    # Evaluations after steps 2 and 4; the second of them may be the last.
    _check_plateau(1, [(0, 5)], 2)
    with pytest.raises(UserError, match="after 2 evaluations, and the run has 1 before the last"):
        _check_plateau(1, [(0, 4)], 2)
    # Stages count by themselves, in steps of the run: after 4 and 6 in the second one.
    _check_plateau(1, [(0, 3), (3, 7)], 2)
    with pytest.raises(UserError, match="no stage has more than 1 before the last step"):
        _check_plateau(1, [(0, 3), (3, 6)], 2)
