from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillrl.models.hf_tokenizer import write_hf_tokenizer
from skillrl.tokenizer import SPECIAL_TOKENS, SentencePieceTokenizer

# Source code of this project: longer and more varied than what the small tokenizer was trained on.
SOURCES = [path.read_text() for path in sorted((Path(__file__).parents[3] / "skillrl").rglob("*.py"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with both tokenizers, and ours."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = SentencePieceTokenizer.train(SOURCES[::2], folder / "tokenizer.model", 900, ["return", "make pad", "x"])
    write_hf_tokenizer(folder / "tokenizer.model", folder)
    return folder, tokenizer


@pytest.fixture(scope="module")
def theirs(made):
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle comes with transformers")
    return tokenizers.Tokenizer.from_file(str(made[0] / "tokenizer.json"))


def _plain(text):
    """Text without what the two read differently by design."""
    text = text.replace("\u2581", " ")
    while any(name in text for name in SPECIAL_TOKENS):
        for name in SPECIAL_TOKENS:
            text = text.replace(name, " ")
    return text


@pytest.mark.parametrize("i", range(0, len(SOURCES), 3))
def test_same_ids_on_source_code(made, theirs, i):
    text = _plain(SOURCES[i])
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ids == made[1].encode(text)
    assert theirs.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(
    st.text("ab 01xyé😀\n\t_<|end>(){}", max_size=80) | st.sampled_from([" return x", "make pad  make pads", "\r\n"])
)
def test_same_ids_on_any_text(made, theirs, text):
    text = _plain(text)
    assert theirs.encode(text, add_special_tokens=False).ids == made[1].encode(text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_loads_the_folder(made):
    transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")
    folder, ours = made
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (ours.special_id("<|end|>"), 0)
    turn = "<|user|>make pad<|end|>"
    want = [ours.special_id("<|user|>"), *ours.encode("make pad"), ours.special_id("<|end|>")]
    assert loaded(turn)["input_ids"] == want
    assert loaded(_plain(SOURCES[0]))["input_ids"] == ours.encode(_plain(SOURCES[0]))
