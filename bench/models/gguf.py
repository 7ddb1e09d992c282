"""Models in one GGUF file, such as small ones from the package index: read as what they stand for.

Their quantised weights are read as the numbers that they stand for, in float32, and are trained on
as such. transformers reads some families so (Llama, Qwen2, GPT-2, …), with the packages gguf and
accelerate.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bench.core.errors import UserError
from bench.models.dtypes import choose_experts
from bench.models.kernels import refuse_kernels
from bench.models.loading import check_tensors, check_vocabulary, check_weights, loading_from
from bench.models.placing import place
from bench.models.sizes import check_numbers, laid_out

_NEEDED = ("gguf", "accelerate")


def gguf_file(folder: Path) -> Path | None:
    """The GGUF file of a folder without a config.json; None if there is none.

    Raises:
        UserError: there are several, or a package that reads them is missing.
    """
    if (folder / "config.json").exists():
        return None
    files = sorted(folder.glob("*.gguf"))
    if not files:
        return None
    if len(files) > 1:
        raise UserError(
            f"holds {len(files)} GGUF files ({', '.join(file.name for file in files[:3])}, …)",
            where=str(folder),
            fix="leave one of them in it",
        )
    for name in _NEEDED:
        if find_spec(name) is None:
            raise UserError(
                f"reading it needs the package {name}",
                where=str(files[0]),
                fix="pip install 'tdabench[gguf]'",
            )
    return files[0]


def gguf_config(file: Path) -> PretrainedConfig:
    """The configuration that a GGUF file describes, its sizes checked; no weights are read.

    Raises:
        UserError: it is no GGUF file of a family that transformers reads, or of absurd sizes.
    """
    with loading_from(str(file)):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
    described = config.to_dict()
    check_numbers(described, str(file))
    refuse_kernels(described, str(file))
    laid_out(config)
    return config


def gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file; raises UserError if transformers reads none."""
    with loading_from(str(file)), redirect_stderr(StringIO()):  # transformers' bar has no switch
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


def load_gguf(file: Path, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a GGUF file in float32, frozen and in eval mode, and its tokenizer.

    Raises:
        UserError: as ``gguf_config``; tensors that are missing, unexpected, of another shape or not
            finite; a tokenizer that does not fit, or a model that is not causal.
    """
    config, tokenizer = gguf_config(file), gguf_tokenizer(file)
    with loading_from(str(file)), redirect_stderr(StringIO()):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    quantised, report = loaded
    check_tensors(report, file)
    # The same numbers in a plain model: transformers saves none that it calls quantised.
    module: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, trust_remote_code=False
    )
    module.load_state_dict(quantised.state_dict())
    choose_experts(module, torch.float32)
    place(module.eval().requires_grad_(False), device)
    check_weights(module, str(file))
    check_vocabulary(tokenizer, module, str(file))
    return module, tokenizer
