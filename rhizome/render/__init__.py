"""From request bodies to the token ids that an engine sees, without torch or transformers.

`load_renderer` reads a model's tokenizer and chat template; `Renderer` renders and tokenizes as
vLLM does. The router uses it to know prompts before the engine does, the simulated engine to have
any.
"""
