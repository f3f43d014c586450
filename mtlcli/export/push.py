"""The upload of an exported folder to the Hugging Face hub, or to what HF_ENDPOINT names."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import httpx, validate_repo_id  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import disable_progress_bars

from mtlcli.data.hub import hub_endpoint
from mtlcli.errors import RunError, UserError


class Hub:
    """A repository of the hub, for somebody who is logged in."""

    def __init__(self, name: str) -> None:
        """Raises UserError when the name is none of a repository, nobody is logged in, or the hub
        does not answer."""
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UserError(
                f"'{name}' is no name of a repository", "--to", "type OWNER/NAME, such as me/rte"
            ) from error
        self.name = name
        self._api = HfApi(endpoint=hub_endpoint())
        try:
            self.user: str = self._api.whoami()["name"]
        except HfHubHTTPError as error:
            raise UserError(
                f"{hub_endpoint()} does not accept you: {_reason(error)}",
                "mtl push",
                "type hf auth login, or set HF_TOKEN to a token that may write",
            ) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            # The client has a class of its own for a missing token, which is an OSError.
            raise UserError(
                f"{hub_endpoint()} cannot be asked: {_reason(error)}",
                "mtl push",
                "type hf auth login, or set HF_TOKEN; check the network and HF_ENDPOINT",
            ) from error
        if "/" not in name:
            self.name = f"{self.user}/{name}"

    def upload(self, folder: Path, *, public: bool, message: str | None) -> str:
        """Upload all files of an exported folder in one commit, and return the address of the
        repository, which is made if there is none: private unless `public`.

        Raises RunError when the hub refuses it.
        """
        disable_progress_bars()
        task = json.loads((folder / "mtl_export.json").read_text(encoding="utf-8"))["task"]
        try:
            made = self._api.create_repo(self.name, private=not public, exist_ok=True)
            self._api.upload_folder(
                repo_id=self.name,
                folder_path=folder,
                commit_message=message or f"Upload {task}, exported by mtl",
            )
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise RunError(
                f"the model was not uploaded: {_reason(error)}",
                f"--to {self.name}",
                "check that you may write there, and push again: files that are there already are "
                "not sent again",
            ) from error
        return str(made.url)


def _reason(error: Exception) -> str:
    """Return the first line of an error, without the client's own advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
