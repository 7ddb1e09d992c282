"""Models of the Hugging Face Hub: a snapshot of one revision, in the cache that transformers has.

Only a setting asks for one (``model.revision``), and only what a model is read from is fetched:
configuration, tokenizer and safetensors.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from bench.core import progress
from bench.core.errors import UserError, first_line

_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def check_hub_id(name: str) -> None:
    """Refuse what cannot be the name of a model on the hub, with a UserError."""
    if not _ID.match(name):
        raise UserError(
            f"{name!r:.80} is no model of the hub",
            where="model.path",
            fix="with model.revision it is OWNER/NAME; for a folder set model.revision=null",
        )


@lru_cache
def hub_folder(name: str, revision: str) -> Path:
    """The folder of a model's snapshot, called after its commit; fetched if it is not here.

    Args:
        name: ``OWNER/NAME``.
        revision: a commit, which stays what it is; or a branch or tag, whose commit of today is
            taken.

    Raises:
        UserError: no such model or revision, or no network and no such snapshot in the cache.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not constants.HF_HUB_OFFLINE:
        progress.say(f"model: {name} at {revision} from the model hub, or this machine's cache")
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=_FILES)
    except LocalEntryNotFoundError as error:
        why = (
            "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the model hub is not reached"
        )
        raise UserError(
            f"{name} at {revision} is not in the cache of this machine, and {why}",
            where="model.path",
            fix=f"fetch it where a network is (hf download {name} --revision {revision}), or set "
            "model.path to a folder",
        ) from error
    except Exception as error:  # of the hub, of the network and of the disk, in many kinds
        raise UserError(
            f"{name} at {revision} cannot be had from the model hub ({first_line(error)})",
            where="model.path",
            fix="set model.path=OWNER/NAME and model.revision to a commit, branch or tag of it",
        ) from error
    return Path(folder)
