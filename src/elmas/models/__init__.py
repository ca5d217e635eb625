"""Models without a download: shapes of known models, a small random model, and a tokenizer of the project's own.

`elmas model NAME DIR` writes one. Knows no vLLM and no torch.
"""
