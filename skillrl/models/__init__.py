"""The policy: configuration, decoder, cache, Hugging Face weights."""
