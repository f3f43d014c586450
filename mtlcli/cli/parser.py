"""The argument parser of the verbs that Hydra does not serve. Its mistakes are reported as all
others are."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mtlcli.errors import UserError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError. `prog` is the verb as the user types it, `mtl
    eval`."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with the option that is not known, or with argparse's message."""
        unknown = message.removeprefix("unrecognized arguments: ")
        what = f"unknown option '{unknown.split()[0]}'" if unknown != message else message
        raise UserError(what, fix=f"{self.prog} --help lists the options")
