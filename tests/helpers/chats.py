"""Small Hugging Face tokenizer folders of each family: a byte-level BPE, its special tokens and a chat template.

The templates are written for these tests. Each keeps its family's published conventions of roles, calls, tool results
and thinking (the chat_template of Qwen2.5-Coder, Qwen3, QwQ, Qwen3-Coder, GLM-4.5 and Llama-3.1), with other words.
"""

import json
from pathlib import Path

import pytest

_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_GLM = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
          "<|eot_id|>", "<|python_tag|>")  # fmt: skip
_CALL = ("<tool_call>", "</tool_call>")
_RESULT = ("<tool_response>", "</tool_response>")
_THINK = ("<think>", "</think>")
_ARGUMENT = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")

_SYSTEM = """\
{{- '<|im_start|>system\\nYour tools:\\n' }}
{%- for tool in tools %}{{- (tool | tojson) + '\\n' }}{% endfor %}
{{- '<|im_end|>\\n' }}
"""
_RESULTS = """\
  {%- elif m.role == 'tool' %}
    {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
"""
_USER = """\
{%- for m in messages %}
  {%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}
  {%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}
"""
_JSON_CALLS = """\
    {{- m.content }}
    {%- for c in m.tool_calls %}
      {{- '<tool_call>\\n{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) }}
      {{- '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
"""
_XML_CALLS = """\
    {{- m.content }}
    {%- for c in m.tool_calls %}
      {{- '<tool_call>\\n<function=' + c.function.name + '>\\n' }}
      {%- for k, v in c.function.arguments | items %}
        {{- '<parameter=' + k + '>\\n' + v + '\\n</parameter>\\n' }}
      {%- endfor %}
      {{- '</function>\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
"""
_OPEN = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}\n"
# Thinking is written in the last turn, and in those before it that have any.
_QWEN3_THINKS = """\
    {%- if loop.last or m.reasoning_content %}
      {{- '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}
    {%- endif %}
"""
_QWEN3_OPEN = """\
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\\n' }}
  {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""
# Thinking is opened by the prompt and never shown again.
_QWQ_OPEN = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}\n"
_GLM_TEMPLATE = """\
{{- '[gMASK]<sop><|system|>\\nYour tools:\\n' }}
{%- for tool in tools %}{{- (tool | tojson) + '\\n' }}{% endfor %}
{%- set quiet = enable_thinking is defined and not enable_thinking %}
{%- for m in messages %}
  {%- if m.role == 'user' %}{{- '<|user|>\\n' + m.content + ('/nothink' if quiet else '') }}
  {%- elif m.role == 'assistant' %}
    {{- '<|assistant|>\\n<think>' + (m.reasoning_content or '') + '</think>' }}
    {%- if m.content %}{{- '\\n' + m.content }}{% endif %}
    {%- for c in m.tool_calls %}
      {{- '\\n<tool_call>' + c.function.name + '\\n' }}
      {%- for k, v in c.function.arguments.items() %}
        {{- '<arg_key>' + k + '</arg_key>\\n<arg_value>' + v + '</arg_value>\\n' }}
      {%- endfor %}
      {{- '</tool_call>' }}
    {%- endfor %}
  {%- elif m.role == 'tool' %}
    {{- '<|observation|>\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' + ('\\n<think></think>' if quiet else '') }}{% endif %}
"""
_LLAMA_TEMPLATE = """\
{%- macro head(role) %}{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}{% endmacro %}
{{- bos_token + head('system') + 'Environment: ipython\\nToday: ' + date_string + '<|eot_id|>' }}
{%- for m in messages %}
  {%- if m.role == 'user' %}
    {{- head('user') }}
    {%- if loop.first %}{% for tool in tools %}{{- (tool | tojson(indent=4)) + '\\n\\n' }}{% endfor %}{% endif %}
    {{- (m.content | trim) + '<|eot_id|>' }}
  {%- elif m.tool_calls %}
    {%- set f = m.tool_calls[0].function %}
    {{- head('assistant') + '{"name": "' + f.name + '", "parameters": ' + (f.arguments | tojson) + '}<|eot_id|>' }}
  {%- elif m.role == 'assistant' %}{{- head('assistant') + (m.content | trim) + '<|eot_id|>' }}
  {%- elif m.role == 'tool' %}{{- head('ipython') + (m.content | tojson) + '<|eot_id|>' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- head('assistant') }}{% endif %}
"""
# Family: special tokens, other added tokens, template.
FAMILIES = {
    "qwen2.5": (_QWEN, _CALL, _SYSTEM + _USER + _JSON_CALLS + _RESULTS + _OPEN),
    "qwen3": (_QWEN, _CALL + _RESULT + _THINK, _SYSTEM + _USER + _QWEN3_THINKS + _JSON_CALLS + _RESULTS + _QWEN3_OPEN),
    "qwq": (_QWEN, _CALL + _RESULT + _THINK, _SYSTEM + _USER + _JSON_CALLS + _RESULTS + _QWQ_OPEN),
    "qwen3-coder": (_QWEN, _CALL + _RESULT + _THINK, _SYSTEM + _USER + _XML_CALLS + _RESULTS + _OPEN),
    "glm4.5": (_GLM, _CALL + _RESULT + _THINK + _ARGUMENT, _GLM_TEMPLATE),
    "llama3.1": (_LLAMA, (), _LLAMA_TEMPLATE),
}  # fmt: skip
_EOS = {"qwen": "<|im_end|>", "qwq": "<|im_end|>", "glm4": "<|endoftext|>", "llam": "<|eot_id|>"}


def make_folder(folder: Path, family: str, *, template: str | None = None, vocab: int = 400) -> Path:
    """Writes tokenizer.json, tokenizer_config.json and, unless `template` is empty, chat_template.jinja."""
    pytest.importorskip("transformers", reason="extra hf: the families' tokenizers come through transformers")
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    special, added, own = FAMILIES[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=bytes_, show_progress=False)
    # Fragments of markup become tokens of their own, which plain text may use and markup must not.
    texts = ["def f(x):\n    return x\n", '{"name": "bash", "arguments": {"command": "ls"}}', *special, *added]
    tokenizer.train_from_iterator(texts * 20, trainer)
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in added])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _EOS[family[:4]], "pad_token": special[0]}
    if family.startswith("llama"):
        config["bos_token"] = special[0]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = own if template is None else template
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder
