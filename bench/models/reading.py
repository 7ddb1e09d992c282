"""Reading texts with a tokenizer: a passage as it comes, a query as one string.

A tokenizer may put tokens before and behind every text, as a template ``<s> $A </s>`` does. A
passage has both. A query has those before it and none of those behind, whatever they are called, so
that no token stands between prompt and target that the joined string does not have. Strings such as
``</s>`` inside a text are text: a corpus that quotes them does not end there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from tokenizers import processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase

from bench.core.errors import UserError, first_line

_PROBES = ("a", "0", "一")  # texts to find out what stands around one; a vocabulary has one of them
_OUR_ID = -1  # stands for a text's own tokens, and is no token


class TextReader:
    """The token ids that one tokenizer gives for passages and queries.

    Args:
        tokenizer: fast or slow. Of a fast one, the offsets keep white space from now on: by default
            they leave out the space that a byte-level token begins or ends with.

    Attributes:
        before: ids that stand before every text.
        behind: ids that stand behind every text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._is_fast = tokenizer.is_fast
        if self._is_fast:
            _keep_white_space(tokenizer.backend_tokenizer.post_processor)
        self.before, self.behind = self._affixes()
        self._splits = self._is_fast or isinstance(tokenizer, PreTrainedTokenizer)
        added = tokenizer.added_tokens_decoder.values() if self._splits else ()
        special = [token.content for token in added if token.special]
        self._special = sorted({*special, *tokenizer.all_special_tokens})
        self._never = self._special_ids()

    def passage(self, text: str) -> list[int]:
        """Ids of a passage, with what the tokenizer puts before and behind a text."""
        return [*self.before, *self._own(text), *self.behind]

    def prompt(self, text: str) -> list[int]:
        """Ids of a text that goes on: with what stands before it, without what stands behind."""
        return [*self.before, *self._own(text)]

    def query(self, prompt: str, separator: str, target: str) -> tuple[list[int], int, bool]:
        """Ids of the string ``prompt + separator + target``.

        Returns:
            the ids, less those that the tokenizer puts behind a text; the index of the first of
            them that holds a character behind the prompt, their number if none does; and whether
            one of them holds a character of the target.
        """
        text = f"{prompt}{separator}{target}"
        if self._is_fast:
            ids, places = self._own_with_places(text)
            first = _first_behind(len(prompt), places)
            asks = any(end > len(prompt) + len(separator) for _, end in places)
        else:
            ids = self._own(text)
            first = _shared(self._own(prompt), ids)
            asks = _shared(self._own(f"{prompt}{separator}"), ids) < len(ids)
        return [*self.before, *ids], len(self.before) + first, asks

    def chat_prompt(self, prompt: str) -> list[int]:
        """Ids of the tokenizer's chat template up to where the assistant's answer begins.

        Raises:
            UserError: as ``chat``.
        """
        return self._templated(self._chat(prompt))[0]

    def chat(self, prompt: str, target: str) -> tuple[list[int], int]:
        """Ids of a chat in which the user's message is the prompt, and the answer the target.

        The template is the tokenizer's own. Nothing follows the target, and there is no separator:
        the answer begins where the template lets the assistant begin.

        Returns:
            the ids; and the index of the first of them that holds a character of the target, their
            number if none does.

        Raises:
            UserError: there is no chat template or it does not take one message, the tokenizer is a
                slow one, or prompt or target spell a special token, which would end a message.
        """
        chat = self._chat(prompt)
        for text in (prompt, target):
            if spelled := [word for word in self._special if word in text]:
                raise UserError(
                    f"{text!r:.60} spells the special token {spelled[0]}",
                    where="task.chat",
                    fix="drop this query, or leave task.chat=false, which reads it as text",
                )
        ids, places = self._templated(f"{chat}{target}")
        return ids, _first_behind(len(chat), places)

    def _chat(self, prompt: str) -> str:
        """The chat template's string up to where the assistant's answer begins."""
        where = f"tokenizer {type(self._tokenizer).__name__}"
        if not self._is_fast:
            fix = "save it as a fast tokenizer (tokenizer.json), or leave task.chat=false"
            raise UserError("does not tell where an answer begins in a chat", where=where, fix=fix)
        if self._tokenizer.chat_template is None:
            fix = "use a model that was tuned for chats, or leave task.chat=false"
            raise UserError(
                "has no chat template, which task.chat=true needs", where=where, fix=fix
            )
        message = [{"role": "user", "content": prompt}]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    message, tokenize=False, add_generation_prompt=True
                )
            )
        except (TemplateError, TypeError, ValueError, RecursionError) as error:
            fix = "mend the chat_template of its files, or leave task.chat=false"
            reason = first_line(error)
            raise UserError(
                f"its chat template takes no message ({reason})", where=where, fix=fix
            ) from error

    def _templated(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and places of a string of the template, whose special tokens are tokens."""
        encoding = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True,
            split_special_tokens=False, verbose=False,
        )  # fmt: skip
        return list(encoding["input_ids"]), encoding["offset_mapping"]

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each id of ``passage`` begins and ends, in characters.

        What stands before the text has the empty place at its start, what stands behind it the one
        at its end. Tokens that are parts of one character have one place.

        Raises:
            UserError: a slow tokenizer, which does not tell.
        """
        if not self._is_fast:
            raise UserError(
                "does not tell where in a text its tokens are, which spans=true needs",
                where=f"tokenizer {type(self._tokenizer).__name__}",
                fix="save it as a fast tokenizer (tokenizer.json), or leave spans=false",
            )
        own = self._own_with_places(text)[1]
        end = len(text)
        return [*[(0, 0)] * len(self.before), *own, *[(end, end)] * len(self.behind)]

    def words(self, ids: Iterable[int]) -> list[str]:
        """The tokens of these ids as strings."""
        return [str(self._tokenizer.convert_ids_to_tokens(one)) for one in ids]

    def _affixes(self) -> tuple[list[int], list[int]]:
        """The ids that stand before and behind every text."""
        if not self._is_fast:
            ids = self._tokenizer.build_inputs_with_special_tokens([_OUR_ID])
            place = ids.index(_OUR_ID)
            return ids[:place], ids[place + 1 :]
        for text in _PROBES:
            encoding = self._tokenizer(text, verbose=False)
            own = [at for at, n in enumerate(encoding.sequence_ids()) if n is not None]
            ids = encoding["input_ids"]
            if own:
                return ids[: own[0]], ids[own[-1] + 1 :]
        return ids, []

    def _own(self, text: str) -> list[int]:
        """Ids of the text itself, with nothing before or behind it."""
        ids = self._tokenizer(text, add_special_tokens=False, **self._options(text))["input_ids"]
        return self._without_special(ids)

    def _own_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the text itself, and where in it each of them begins and ends, in characters."""
        encoding = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, **self._options(text)
        )
        return self._without_special(encoding["input_ids"]), encoding["offset_mapping"]

    def _options(self, text: str) -> dict[str, bool]:
        """The options of a call that take a special token's string inside a text for text.

        A slow tokenizer that is told so overlooks its ordinary added tokens, too: it is told only
        where there is such a string.
        """
        spelled = self._is_fast or (self._splits and any(word in text for word in self._special))
        return {"verbose": False, **({"split_special_tokens": True} if spelled else {})}

    def _special_ids(self) -> set[int]:
        """The special tokens that a vocabulary of whole words may give for a word of a text.

        A vocabulary that whole words are looked up in holds its special tokens as words, too. Byte
        pairs are merged, and no merge makes a special token.
        """
        tokenizer = self._tokenizer
        merges = self._is_fast and type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
        if merges or tokenizer.unk_token_id is None:
            return set()
        ids: set[Any] = {tokenizer.convert_tokens_to_ids(word) for word in self._special}
        return ids - {tokenizer.unk_token_id}

    def _without_special(self, ids: Sequence[int]) -> list[int]:
        """The ids, with the unknown word's in place of a special token's."""
        if self._never.isdisjoint(ids):
            return list(ids)
        unknown = self._tokenizer.unk_token_id
        return [unknown if one in self._never else one for one in ids]


def _first_behind(end: int, places: Sequence[tuple[int, int]]) -> int:
    """The number of tokens before the first that holds a character at ``end`` or behind it."""
    return sum(1 for _ in takewhile(lambda place: place[1] <= end, places))


def _keep_white_space(processor: Any) -> None:
    """Let offsets hold white space, also those of the processors that a sequence is made of."""
    if hasattr(processor, "trim_offsets"):
        processor.trim_offsets = False
    elif isinstance(processor, processors.Sequence):
        for part in processor:  # type: ignore[attr-defined]
            _keep_white_space(part)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of ids that two sequences begin with alike."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
