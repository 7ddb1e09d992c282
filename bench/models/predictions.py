"""A model's own completions of the queries: the facts that it knows, and its other answers.

Source: 2410.17413 traces answers that the model gets wrong, too. How the paper cut and matched
generations is unverified; here an answer ends at the first mark that ends a clause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

import torch
from transformers import GenerationConfig

from bench.core import progress
from bench.core.names import begins_with, fold
from bench.models.answers import query_log_probs
from bench.models.language_model import LanguageModel, target_log_probs
from bench.storage.jsonlines import Json
from bench.tasks.base import Query

# The end of an answer, behind which another clause begins. The full stop of an initial or of a
# short title (J., D.C., St.) ends no clause, nor does that of a number.
_END = re.compile(r"[,;:!?\n]|(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\.[A-Z])\.(?=\s|$)")
_BATCH = 64  # prompts of one length that are completed side by side


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one query.

    Attributes:
        query: the query that was asked.
        answer: the greedily decoded text, cut at the end of the clause; it may be empty. A right
            answer is given as the annotated target.
        right: whether the answer is the target or one of its other names, or begins with one.
        target_log_probability: the log-probability of the annotated target, or of what else
            ``task.answers`` accepts (nats).
        answer_log_probability: the log-probability of the answer (nats); None where it is empty.
    """

    query: Query
    answer: str
    right: bool
    target_log_probability: float
    answer_log_probability: float | None

    def record(self) -> Json:
        """The query with the answer as its target, as ``task=jsonl`` reads it, without gold."""
        query = self.query
        names = query.subject_names
        return {
            "query_id": query.query_id,
            "prompt": query.prompt,
            "target": self.answer,
            **({"relation": query.relation} if query.relation else {}),
            **({"frequency": query.frequency} if query.frequency is not None else {}),
            **({"entity0": names[0], "entity0_alias": list(names[1:])} if names else {}),
            "slices": {**query.slices, "prediction": "right" if self.right else "wrong"},
            "annotated_target": query.target,
            "annotated_target_log_probability": self.target_log_probability,
            "target_log_probability": self.answer_log_probability,
        }


def predictions(
    model: LanguageModel, queries: Sequence[Query], max_tokens: int
) -> Iterator[Prediction]:
    """Ask every query, in batches of prompts of one length (so nothing is padded).

    Args:
        model: the model that is asked.
        queries: the queries, in any order.
        max_tokens: the most tokens of an answer.

    Yields:
        one prediction for each query, by rising length of the prompt.

    Raises:
        UserError: a prompt or target that the model cannot read.
    """
    asked = [(model.prompt_ids(query), model.query_answers(query), query) for query in queries]
    asked.sort(key=lambda one: len(one[0]))
    shown = progress.track(asked, "predict", unit="queries")
    for length, same in groupby(shown, key=lambda one: len(one[0])):
        alike = list(same)
        for start in range(0, len(alike), _BATCH):
            prompts, answers, batch = zip(*alike[start : start + _BATCH], strict=True)
            texts = _generate(model, prompts, min(max_tokens, model.context_length - length))
            logs, recalled = query_log_probs(model, answers)
            for query, text, log, known in zip(batch, texts, logs, recalled, strict=True):
                names = (query.target, *query.answer_names)
                right = known or begins_with(names, fold(text.strip()))
                cut = _END.split(text.strip(), maxsplit=1)[0].strip()
                answer = query.target if right else cut
                yield Prediction(query, answer, right, log, _log_probability(model, query, answer))


def _generate(model: LanguageModel, prompts: Sequence[Sequence[int]], room: int) -> list[str]:
    """The text after each prompt, greedily decoded."""
    ids = torch.tensor(prompts, device=model.device)
    eos = model.tokenizer.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=room, do_sample=False, num_beams=1, eos_token_id=eos, pad_token_id=eos or 0
    )
    module = cast("Any", model.module)
    # transformers takes what is not set above from the model's own settings, which may sample,
    # penalise repetition or forbid words. The model therefore has none while it answers.
    own, module.generation_config = module.generation_config, GenerationConfig()
    try:
        generated = module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            trust_remote_code=False,
        )
    finally:
        module.generation_config = own
    return model.tokenizer.batch_decode(generated[:, ids.shape[1] :], skip_special_tokens=True)


def _log_probability(model: LanguageModel, query: Query, answer: str) -> float | None:
    if not answer:
        return None
    tokens = model.query_tokens(replace(query, target=answer, accepted=()))
    return target_log_probs(model, [tokens])[0][0]
