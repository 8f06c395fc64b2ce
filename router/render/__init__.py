"""From request bodies to the token ids that the engine will see.

`load_renderer` reads a model's tokenizer and chat template, `Renderer` renders and tokenizes as
vLLM does, and `Rendering` does so for requests: within bounds of time and size, and falling back
to stable bytes where the ids cannot be known.
"""
