import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skillrl.tokenizer import SPECIAL_TOKENS, SentencePieceTokenizer

TEXTS = [
    f'def {name}(x):\n    """Adds {n}."""\n    return x + {n}\n\n\nassert {name}({n}) == {2 * n}\n'
    for name in ("foo", "bar", "make_pair")
    for n in range(20)
]
WORDS = ("make_pair", "return x")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return SentencePieceTokenizer.train(TEXTS, tmp_path_factory.mktemp("tok") / "t.model", 600, WORDS)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("\u2581 \n\t\r\0<|>end_0123456789abcxyz", max_size=60))
@example("".join(SPECIAL_TOKENS) + "<unk><s></s><0x41>")
@example("  \n\n\t  x  \r\n ")
@example(" \u2581 \u2581\u2581")
@example("\ufeff\u200b\u0301é😀" + "0" * 500)
def test_round_trip_is_exact_and_text_never_gives_a_special_id(tokenizer, text):
    text = text.encode("utf-8", "replace").decode()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {tokenizer.special_id(name) for name in SPECIAL_TOKENS}
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_surrogates_become_question_marks(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_words_and_small_integers_are_one_token(tokenizer):
    for word in (*WORDS, *map(str, range(100))):
        assert len(tokenizer.encode(word)) == 1
    assert len(tokenizer.encode("x make_pair\n")) == 4
    assert len(tokenizer.encode("100")) == 2


def test_frequent_phrases_are_few_tokens(tokenizer):
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0]) / 3


def test_training_is_deterministic(tmp_path):
    paths = [tmp_path / f"{n}.model" for n in range(2)]
    for path, words in zip(paths, (WORDS, set(reversed(WORDS))), strict=True):
        SentencePieceTokenizer.train(iter(TEXTS), path, 600, words)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_decode_names_special_tokens_and_survives_any_ids(tokenizer):
    assert [tokenizer.decode([tokenizer.special_id(name)]) for name in SPECIAL_TOKENS] == list(SPECIAL_TOKENS)
    assert tokenizer.special_id("<pad>") == tokenizer.pad_id == 0
    assert tokenizer.decode([tokenizer.vocab_size, -1]) == "\ufffd\ufffd"
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"
    assert isinstance(tokenizer.decode(range(tokenizer.vocab_size)), str)


def test_special_tokens_in_the_training_text_stay_unreachable(tmp_path):
    texts = [f"{name} x {name}{name}" for name in SPECIAL_TOKENS] * 50 + TEXTS
    tokenizer = SentencePieceTokenizer.train(texts, tmp_path / "t.model", 600)
    for name in SPECIAL_TOKENS:
        assert tokenizer.special_id(name) not in tokenizer.encode(name * 3)


def test_errors_name_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"SentencePieceTokenizer\.train"):
        SentencePieceTokenizer(tmp_path / "none.model")
    with pytest.raises(ValueError, match="raise vocab_size"):
        SentencePieceTokenizer.train(TEXTS, tmp_path / "small.model", 100)
