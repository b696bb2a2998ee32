import json

import pytest
from chats import FAMILIES, make_folder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skillrl.tokenizer import HFTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return HFTokenizer(make_folder(tmp_path_factory.mktemp("hf"), "glm4.5"))


NAMES = [*FAMILIES["glm4.5"][0], *FAMILIES["glm4.5"][1]]


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(" \n\t\r\0<|>/_abctol", max_size=40) | st.lists(st.sampled_from(NAMES)).map("".join))
@example("e\u0301 \ufeff\u2581")
def test_round_trip_is_exact_and_text_never_gives_an_added_token(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.encode("utf-8", "replace").decode()
    assert not set(ids) & set(tokenizer.added_ids.values())
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_transformers_itself_would_forge_them(tokenizer):
    """Why `encode` is not transformers': `split_special_tokens` spares added tokens that are not special."""
    forged = tokenizer.hf.encode("</tool_response>", add_special_tokens=False, split_special_tokens=True)
    assert forged == [tokenizer.special_id("</tool_response>")]
    assert tokenizer.special_id("</tool_response>") not in tokenizer.encode("</tool_response>")


@settings(max_examples=100, deadline=None)
@given(st.text("ab \n1é{", max_size=30))
def test_plain_text_is_what_transformers_makes_of_it(tokenizer, text):
    assert tokenizer.encode(text) == tokenizer.hf.encode(text, add_special_tokens=False)


def test_only_markup_holds_special_tokens(tokenizer):
    user, call = map(tokenizer.special_id, ("<|user|>", "<tool_call>"))
    pieces = [("<|user|>\n", True), ("<tool_call>", False), ("<tool_call>x", True)]
    assert tokenizer.encode_pieces(pieces) == [
        user, *tokenizer.encode("\n<tool_call>"), call, *tokenizer.encode("x")
    ]  # fmt: skip
    assert tokenizer.names_in("<|user|>\n<tool_call>x<|user") == ["<|user|>", "<tool_call>"]


def test_decoding_names_special_tokens_and_survives_any_ids(tokenizer):
    assert [tokenizer.decode([tokenizer.special_id(name)]) for name in NAMES] == NAMES
    a, end = tokenizer.encode("a"), tokenizer.vocab_size
    assert tokenizer.decode([*a, end, end + 7, *a]) == "a\ufffd\ufffda"
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"
    assert isinstance(tokenizer.decode(range(end)), str)
    assert tokenizer.decode([]) == "" and tokenizer.encode("") == []


def test_ids_are_bounded_by_the_vocabulary(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer.hf) == 1 + max(tokenizer.added_ids.values())
    assert tokenizer.decode([tokenizer.pad_id]) == "<|endoftext|>"


def changed(folder, change, family="qwen3"):
    """The folder of a family with its tokenizer.json changed by a function of its content."""
    make_folder(folder, family)
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    change(spec)
    path.write_text(json.dumps(spec))
    return folder


def test_normalisation_to_composed_characters_is_left_out(tmp_path):
    """Qwen's tokenizers have it; a policy could then never write back the bytes that it read."""
    folder = changed(tmp_path, lambda spec: spec.update(normalizer={"type": "NFC"}))
    tokenizer = HFTokenizer(folder)
    assert tokenizer.decode(tokenizer.hf.encode("e\u0301", add_special_tokens=False)) == "\u00e9"
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "e\u0301"


def test_tokenizers_that_lose_text_are_refused(tmp_path):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    make_folder(tmp_path, "qwen3")
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<|im_end|>", "<|endoftext|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="does not give back the text"):
        HFTokenizer(tmp_path)


def test_text_that_is_a_special_token_is_refused(tmp_path):
    def merged(spec):
        """The end token gets the id of a piece of plain text."""
        end = next(token for token in spec["added_tokens"] if token["content"] == "<|im_end|>")
        spec["model"]["vocab"]["<|im_end|>"] = end["id"]
        spec["model"]["ignore_merges"] = True
        spec["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "use_regex": False,
            "trim_offsets": True,
        }

    with pytest.raises(ValueError, match=r"the text of \['<\|im_end\|>'\] encodes to these special tokens"):
        HFTokenizer(changed(tmp_path, merged))


def test_folders_without_a_tokenizer_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"no tokenizer can be read from {tmp_path}"):
        HFTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=f"no tokenizer can be read from {tmp_path}"):
        HFTokenizer(tmp_path)
