"""The SentencePiece model of a small policy as a tokenizer.json with the compact format as its chat template.

transformers.AutoTokenizer loads the folder, and its apply_chat_template writes what such a policy was trained on.

Ids are the same as SentencePieceTokenizer's on text without U+2581 and without the names of special tokens. Those two
differ by design: here the name of a special token is that token, as transformers' users expect, while in an episode it
is plain text; and U+2581 is a space here.
"""

import json
from pathlib import Path
from typing import Any

import sentencepiece

from skillrl.chat.compact import TEMPLATE
from skillrl.tokenizer import END, PAD, SPECIAL_TOKENS

_SPACE_MARK = "\u2581"


def to_hf_tokenizer(model_file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contents of tokenizer.json and tokenizer_config.json."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
    special = {model.piece_to_id(name) for name in SPECIAL_TOKENS}
    # A model made by SentencePieceTokenizer.train holds, in this order: special tokens, its user's symbols (matched
    # before any merge), the 256 bytes, then the results of merges and single characters.
    first_byte = model.piece_to_id("<0x00>")
    symbols = [i for i in range(first_byte) if not (i in special or model.is_unknown(i))]
    plain = list(range(first_byte + 256, len(pieces)))
    unknown = pieces[model.unk_id()]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(i, pieces[i], special=i in special) for i in sorted({*special, *symbols, model.unk_id()})
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE_MARK},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE_MARK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": _merges(model, pieces, plain),
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": unknown,
        "additional_special_tokens": [name for name in SPECIAL_TOKENS if name not in (PAD, END)],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    return tokenizer, config


def write_hf_tokenizer(model_file: Path, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    for name, contents in zip(("tokenizer.json", "tokenizer_config.json"), to_hf_tokenizer(model_file), strict=True):
        (folder / name).write_text(json.dumps(contents, ensure_ascii=False, indent=1) + "\n")


def _added(i: int, piece: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"id": i, "content": piece, **flags, "normalized": not special, "special": special}


def _merges(model: sentencepiece.SentencePieceProcessor, pieces: list[str], plain: list[int]) -> list[list[str]]:
    """Every way to join two pieces to a third, in the order in which SentencePiece prefers the result."""
    known = {pieces[i] for i in plain}
    merges = []
    for i in sorted(plain, key=lambda i: -model.get_score(i)):
        piece = pieces[i]
        splits = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        merges += [[left, right] for left, right in splits if left in known and right in known]
    return merges
