"""Clients of inference servers that take a context as embeddings: vLLM and SGLang.

Context and query are sent together as embeddings of the served LLM, so that the server needs no
adapter, and any number of contexts share one LLM.
"""

from mend.serving.sglang import SGLangClient
from mend.serving.vllm import VLLMClient

__all__ = ["SGLangClient", "VLLMClient"]
