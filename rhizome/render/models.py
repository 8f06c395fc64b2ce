"""What has to be known of models by name to make their prompts as vLLM 0.32 does."""

from __future__ import annotations

OWN_RENDERERS = frozenset(
    [
        "MoonshotKimiaForCausalLM",
        "KimiK3ForConditionalGeneration",
        "DeepseekV32ForCausalLM",
        "DeepseekV4ForCausalLM",
        "DeepseekV4ForConditionalGeneration",
        "DeepseekV41ForCausalLM",
        "InklingForCausalLM",
        "InklingForConditionalGeneration",
        "GptOssForCausalLM",
    ]
)
"""Architectures whose prompts vLLM makes with code of its own."""
TAKEN_AS_THEY_ARE = frozenset(
    [
        "chameleon",
        "chatlm",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v4",
        "deepseek_vl",
        "deepseek_vl_v2",
        "ernie4_5",
        "ernie4_5_moe",
        "fuyu",
        "glm",
        "glm4",
        "granite",
        "granitemoe",
        "internlm2",
        "jamba",
        "janus",
        "llava",
        "llava_next",
        "minicpm3",
        "minicpmv",
        "minimax_m2",
        "ministral",
        "ministral3",
        "mistral",
        "mistral3",
        "mixtral",
        "molmo",
        "nemotron",
        "olmo2",
        "olmo3",
        "persimmon",
        "phi3",
        "phi3_v",
        "phimoe",
        "pixtral",
        "stablelm",
        "step3_vl",
        "vipllava",
        "voxtral",
    ]
)
"""Model types whose `tokenizer.json` transformers takes as it is, whatever class it names."""
