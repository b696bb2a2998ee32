"""Text to token ids and back, exactly; special tokens are ids that no text encodes to.

`Tokenizer` is what the rest of skillrl needs; `SentencePieceTokenizer` is a byte-fallback BPE, trained here for small
policies; `HFTokenizer` is the one that a Hugging Face folder holds. Round trip: `decode(encode(text)) == text` for
every text that UTF-8 can hold.
"""

import io
import itertools
import json
import re
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

PAD = "<pad>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
TOOL = "<|tool|>"
CALL = "<|call|>"
ARG = "<|arg|>"
END = "<|end|>"
SPECIAL_TOKENS = (PAD, USER, ASSISTANT, TOOL, CALL, ARG, END)

# SentencePiece writes a space as U+2581 and cannot tell a real U+2581 from it.
_SPACE_MARK = "\u2581"


class Tokenizer(Protocol):
    """Ids are in [0, vocab_size). Special-token text in `encode` is plain text: "<|end|>" never becomes the END id."""

    vocab_size: int
    pad_id: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of any ids: special tokens by their name, bytes that are not UTF-8 as U+FFFD."""
        ...

    def special_id(self, name: str) -> int:
        """Id of a special token."""
        ...


class SentencePieceTokenizer:
    """A SentencePiece model file made by `train`."""

    def __init__(self, path: str | Path):
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer model at {path}; make one with SentencePieceTokenizer.train")
        self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.vocab_size = self._model.vocab_size()
        self._special_ids = {name: self._model.piece_to_id(name) for name in SPECIAL_TOKENS}
        missing = [name for name, i in self._special_ids.items() if not self._model.is_control(i)]
        if missing:
            raise ValueError(f"{path} lacks the control symbols {missing}; train it with SentencePieceTokenizer.train")
        self.pad_id = self._special_ids[PAD]
        self._bytes = [self._piece_bytes(i) for i in range(self.vocab_size)]
        self._space_mark_ids = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()]

    @classmethod
    def train(
        cls, texts: Iterable[str], path: str | Path, vocab_size: int, words: Iterable[str] = ()
    ) -> "SentencePieceTokenizer":
        """Trains a BPE model and writes it to `path`; the same arguments give the same bytes.

        Merges cross spaces and newlines, so frequent phrases become one token. Each of `words` (identifiers) and of
        the integers 0 to 99 is one token wherever it occurs. `vocab_size` is an upper bound: merging stops when no
        pair is left. Raises ValueError when it is too small for the words, the bytes and the characters.
        """
        symbols = sorted({word.replace(" ", _SPACE_MARK) for word in words if word} | {str(n) for n in range(100)})
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(text.replace(_SPACE_MARK, " ").replace("\0", " ") for text in texts),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                byte_fallback=True,
                character_coverage=1.0,
                required_chars="".join(c for c in string.printable if c != " " and c not in symbols),
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_by_whitespace=False,
                split_by_unicode_script=False,
                split_by_number=False,
                max_sentencepiece_length=32,
                max_sentence_length=1 << 24,
                user_defined_symbols=symbols,
                control_symbols=[name for name in SPECIAL_TOKENS if name != PAD],
                pad_id=0,
                pad_piece=PAD,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as e:
            raise ValueError(
                f"cannot train a tokenizer of {vocab_size} tokens with {len(symbols)} words ({e}); "
                "raise vocab_size or give more text"
            ) from e
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.getvalue())
        return cls(path)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; surrogates, which UTF-8 cannot hold, become "?"."""
        first, *rest = text.encode("utf-8", "replace").decode().split(_SPACE_MARK)
        ids = self._model.encode(first)
        for part in rest:
            ids += self._space_mark_ids + self._model.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        # A policy's output layer may be wider than the vocabulary.
        unknown = "\ufffd".encode()
        return b"".join(self._bytes[i] if 0 <= i < self.vocab_size else unknown for i in ids).decode("utf-8", "replace")

    def special_id(self, name: str) -> int:
        return self._special_ids[name]

    def _piece_bytes(self, i: int) -> bytes:
        piece = self._model.id_to_piece(i)
        if self._model.is_byte(i):
            return bytes([int(piece[3:5], 16)])
        if self._model.is_unknown(i):
            return "\ufffd".encode()
        return piece.encode() if self._model.is_control(i) else piece.replace(_SPACE_MARK, " ").encode()


class HFTokenizer:
    """The tokenizer of a Hugging Face folder, as transformers loads it.

    It differs from transformers' in what text becomes: no name in `encode` is ever a special or added token (not even
    with `split_special_tokens`, which spares added tokens like <tool_call>), and NFC normalisation, which would show
    the policy other bytes than a file holds, is left out. `encode_pieces` is the only way to those tokens.
    """

    def __init__(self, folder: str | Path):
        self.hf = _auto_tokenizer(Path(folder))
        if not getattr(self.hf, "is_fast", False):
            raise ValueError(f"the tokenizer in {folder} has no tokenizer.json; convert it to a fast tokenizer")
        backend = self.hf.backend_tokenizer
        added = backend.get_added_tokens_decoder()
        self.added_ids = {token.content: i for i, token in added.items()}
        if not added:
            raise ValueError(f"the tokenizer in {folder} has no special tokens; use that of an instruct model")
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._backend, self._plain = backend, _without_added_tokens(backend)
        self._known = frozenset(backend.get_vocab(with_added_tokens=True).values())
        self.vocab_size = max(self._known) + 1
        pad = self.hf.pad_token_id if self.hf.pad_token_id is not None else self.hf.eos_token_id
        if pad is None:
            raise ValueError(f"the tokenizer in {folder} names neither pad_token nor eos_token; add one to its config")
        self.pad_id = pad
        names = sorted(self.added_ids, key=len, reverse=True)
        self._added_names = re.compile("(" + "|".join(map(re.escape, names)) + ")")
        self._check(folder)

    def _check(self, folder: str | Path) -> None:
        forged = [name for name in self.added_ids if self.added_ids[name] in self.encode(name)]
        if forged:
            raise ValueError(f"in {folder} the text of {forged[:3]} encodes to these special tokens themselves")
        if self.decode(self.encode(_PROBE)) != _PROBE:
            raise ValueError(
                f"the tokenizer in {folder} does not give back the text that it encodes, so the policy could not edit "
                "files exactly; only byte-level (or byte-fallback) tokenizers do"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; surrogates, which UTF-8 cannot hold, become "?"."""
        text = text.encode("utf-8", "replace").decode()
        return self._plain.encode(text, add_special_tokens=False).ids if text else []

    def encode_pieces(self, pieces: Iterable[tuple[str, bool]]) -> list[int]:
        """Ids of pieces (text, is it markup): in markup the names of added tokens are those tokens.

        Text on both sides of a border is encoded together, as one encoding of the whole would.
        """
        ids: list[int] = []
        run = ""
        for text, markup in pieces:
            for part in self._added_names.split(text) if markup else [text]:
                if markup and part in self.added_ids:
                    ids += [*self.encode(run), self.added_ids[part]]
                    run = ""
                else:
                    run += part
        return ids + self.encode(run)

    def names_in(self, markup: str) -> list[str]:
        """The added tokens that markup holds, in their order."""
        return self._added_names.findall(markup)

    def decode(self, ids: Sequence[int]) -> str:
        # A policy's output layer is often wider than the vocabulary.
        parts = []
        for known, run in itertools.groupby(map(int, ids), self._known.__contains__):
            run = list(run)
            parts.append(self._backend.decode(run, skip_special_tokens=False) if known else "\ufffd" * len(run))
        return "".join(parts)

    def special_id(self, name: str) -> int:
        """Id of an added token. Raises KeyError for another name."""
        return self.added_ids[name]


_PROBE = "  a b\n\n\tif x:\r\n    return 'e\u0301'  # \u00e9 \u4e2d \U0001f600 100 <|x|> \n"


def _auto_tokenizer(folder: Path):
    try:
        from transformers import AutoTokenizer
    except ImportError as e:
        raise RuntimeError(f"reading the tokenizer in {folder} needs transformers: pip install 'skillrl[hf]'") from e
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"no tokenizer can be read from {folder} ({str(e).splitlines()[0]})") from e


def _without_added_tokens(backend):
    """A copy of a `tokenizers` tokenizer that knows text only."""
    from tokenizers import Tokenizer as Backend

    spec = json.loads(backend.to_str())
    spec.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    if (spec["normalizer"] or {}).get("type") == "NFC":
        spec["normalizer"] = None
    return Backend.from_str(json.dumps(spec))
