"""tgi-llamacpp: GGUF models behind the HTTP APIs of text-generation-inference and OpenAI."""

__version__ = "0.1.0"
