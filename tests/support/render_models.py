"""Small models' prompt files for tests: tokenizers trained here and templates of many shapes.

The templates are written for these tests, each after the habits of some family of models.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "You are a helpful assistant. Answer in short sentences; cite what you know.",
    '{"name": "get_weather", "parameters": {"type": "object", "properties": {}}}',
    "Größe, naïveté, façade, Ελληνικά, русский, 日本語のテキスト, emoji 🙂 and more 🚀.",
    "[INST] <<SYS>> user assistant system tool\n\n\n  indented    text\twith tabs\r\n",
] * 8
SPECIALS = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]

TEMPLATES: dict[str, str] = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "bracketed": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set lead = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set lead = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- for m in rest %}
    {%- if m['role'] == 'user' %}
        {{- '[INST] ' + (lead if loop.first else '') + m['content'] | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + (m['content'] or '') | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "alternating": """{%- set turns = namespace(n=0) %}
{{- bos_token }}
{%- for m in messages if m.role in ['user', 'assistant'] %}
{%- if (m.role == 'user') != (turns.n % 2 == 0) %}
{{- raise_exception('roles must alternate') }}
{%- endif %}
{%- set turns.n = turns.n + 1 %}
{{- '[INST]' ~ m.content ~ '[/INST]' if m.role == 'user' else m.content ~ eos_token }}
{%- endfor %}""",
    "tools_json": """{%- if tools %}
{{- '<|im_start|>system\n# Tools\n' }}
{%- for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.content is string %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}
{{- '\n<tool_call>' }}{{ call | tojson }}{{ call.function.arguments | tojson(indent=2) }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{% endif %}
{%- endif %}""",
    "turns": """{{ bos_token }}{% for m in messages %}
{%- set role = 'model' if m.role == 'assistant' else m.role %}
<start_of_turn>{{ role }}
{% if m.content is string %}{{ m.content | trim }}{% else %}
{%- for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
{%- endif %}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}""",
    "reasoning": """{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
{%- if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- if m.reasoning_content and loop.index0 > ns.last %}
{{- '<think>' ~ m.reasoning_content ~ '</think>' }}
{%- endif %}
{{- (m.content or '').split('</think>')[-1] }}{{ eos_token }}
{%- else %}<|{{ m.role | upper }}|>{{ m.content }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|ASSISTANT|>{{ reasoning_effort or '' }}{% endif %}""",
    "dated": """Today is {{ strftime_now('%d %b %Y') }}.
{% for m in messages -%}
{{ loop.index }}/{{ loop.length }} {{ m.role }}: {{ m.content }}{{ '' if loop.last else '\n---' }}
{% endfor %}""",
    "generation": """{% for m in messages %}{% if m.role == 'assistant' %}
{% generation %}{% set seen = 1 %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}{{ m.role }}>{{ m.content }}
{% endif %}{% endfor %}{{ 'A>' if add_generation_prompt }}""",
    "macros": """{%- macro line(role, text) -%}
    {{ '<' ~ role ~ '>' }}{{ text }}
{%- endmacro -%}
{%- macro parts(body) -%}
    {%- if body is string -%}{{ body }}{%- else -%}
    {%- for p in body -%}{{ p['text'] }}|{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- for m in messages %}{{ line(m.role, parts(m.content)) }}{{ m.name or '' }}
{% endfor -%}""",
    "loop_controls": """{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}
{% if loop.index > 6 %}{% break %}{% endif %}{{ m.role[:1] }}:{{ m.content }}
{% else %}nobody{% endfor %}{{ bos_token }}{{ documents | tojson if documents else '' }}""",
    "filters": """{% for m in messages | rejectattr('role', 'equalto', 'tool') %}
{{ m.role | capitalize }}: {{ m.content | replace('\n', ' ') | indent(2) }}{{ m | tojson }}
{% endfor %}{{ (messages | last).content | length }}{{ custom | default('none') }}""",
    "developer": """{% for m in messages %}{% if m.role == "developer" %}[dev]{{ m.content }}
{{ m.tools | tojson if m.tools else '' }}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}
{% endfor %}""",
    "tool_results": """{% for m in messages %}{% if m.role == 'tool' %}
<result id={{ m.tool_call_id }}>{{ m.content }}</result>{% else %}{{ m.role }}={{ m.content }}
{%- if m.tool_calls is defined %}{% for c in m.tool_calls %}
{{- c.function.name }}({% for k, v in c.function.arguments.items() %}
{{- k }}={{ v | tojson }},{% endfor %})
{%- endfor %}{% endif %}{% endif %}
{% endfor %}""",
    "strict": (
        "{% if messages[-1].role != 'user' %}{{ raise_exception('ask something') }}{% endif %}"
        "{% for m in messages %}{{ m.undefined_field.deeper }}{% endfor %}"
    ),
}


def byte_level(bos: bool = False) -> Tokenizer:
    """A byte-level BPE; with `bos`, a post-processor that puts it in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
        tokenizer.add_tokens([AddedToken("<tool_call>", rstrip=True, normalized=False)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
    return tokenizer


def metaspace_bpe() -> Tokenizer:
    """As the first Llama models: a prepended space, bytes for what is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    octets = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *octets],
        limit_alphabet=80,
        max_token_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = definition["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    """A Unigram model with compatibility normalization and spaces as symbols."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

TOKENIZERS: dict[str, tuple[Callable[[], Tokenizer], dict[str, Any]]] = {
    "byte_level": (byte_level, {"tokenizer_class": "PreTrainedTokenizerFast", **_NAMED}),
    "byte_level_bos": (
        lambda: byte_level(bos=True),
        {
            "tokenizer_class": "TokenizersBackend",
            **_NAMED,
            "bos_token": {"__type": "AddedToken", "content": "<s>", "special": True},
            "pad_token": "<only_named>",
            "add_bos_token": True,
            "extra_special_tokens": ["<extra>"],
        },
    ),
    "metaspace": (metaspace_bpe, {"tokenizer_class": "PreTrainedTokenizerFast", **_NAMED}),
    "metaspace_rebuilt": (metaspace_bpe, {"tokenizer_class": "LlamaTokenizer", **_NAMED}),
    "metaspace_legacy": (
        metaspace_bpe,
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, **_NAMED},
    ),
    "unigram": (
        unigram,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **_NAMED,
            "image_token": "<image>",
            "added_tokens_decoder": {
                "1": {"content": "</s>", "lstrip": True, "rstrip": False, "special": True},
                "900": {"content": "<late>", "rstrip": True, "special": False},
            },
        },
    ),
}


def write_model(
    directory: Path, tokenizer: str, template: str | None, config: dict[str, Any] | None = None
) -> Path:
    """A directory with the files of one of `TOKENIZERS` and the template's source."""
    directory.mkdir(parents=True, exist_ok=True)
    make, settings = TOKENIZERS[tokenizer]
    (directory / "tokenizer.json").write_text(make().to_str(), "utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (directory / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **(config or {})})
    )
    if template is not None:
        (directory / "chat_template.jinja").write_text(template, "utf-8")
    return directory
