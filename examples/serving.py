"""A context that an inference server's LLM reads: vLLM's or SGLang's.

Context and queries are sent as embeddings, so that the server needs no adapter and one served LLM
has any number of contexts. Printed is what the server writes after each query, and what the library
itself writes.

Without --url a stand-in answers: a little server on this machine that checks the request and runs
the LLM with transformers. It is neither vLLM nor SGLang. With a server of your own:

    vllm serve FOLDER_OF_THE_LLM --enable-prompt-embeds
    python examples/serving.py --url http://localhost:8000 --distiller FOLDER

    python -m sglang.launch_server --model-path FOLDER_OF_THE_LLM --disable-radix-cache
    python examples/serving.py --server sglang --url http://localhost:30000 --distiller FOLDER

By default the distiller is the pocket world's, which this makes in some minutes:

    snakemake --cores 8 \\
        results/runs/pocket-gpt2/mend/default/class_to_class/finetune/weights.safetensors
"""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext

from mend import Context, Distiller, UserError
from mend.serving import SGLangClient, VLLMClient
from mend.serving.stand_in import StandIn

DISTILLER = "results/runs/pocket-gpt2/mend/default/class_to_class/finetune"
DEMONSTRATIONS = [
    ("that market gloomy", "sad"),
    ("the fox merry", "happy"),
    ("a jade mellow", "calm"),
    ("this river furious", "angry"),
]
QUERIES = ["the tiny glad", "take weepy"]


def main() -> None:
    """Ask a server and the library the same, and print both answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", choices=["vllm", "sglang"], default="vllm")
    parser.add_argument("--url", help="where the server is; without it a stand-in answers")
    parser.add_argument("--model", help="what it serves the LLM as, if it serves several")
    parser.add_argument("--distiller", default=DISTILLER, help="a folder, or a name on the hub")
    parser.add_argument("--llm", help="its frozen LLM, if it is no longer where it was")
    parser.add_argument("--context", help="the folder of a saved context, instead of a new one")
    parser.add_argument("--queries", nargs="+", default=QUERIES)
    parser.add_argument("--max-new-tokens", type=int, default=3)
    options = parser.parse_args()

    distiller = Distiller.from_pretrained(options.distiller, llm=options.llm)
    if options.context:
        context = Context.from_pretrained(options.context, llm=distiller.llm)
    else:
        context = distiller.distill(DEMONSTRATIONS)
    client_of = {"vllm": VLLMClient, "sglang": SGLangClient}[options.server]
    stand_in = nullcontext() if options.url else StandIn(distiller.llm, "stand-in")
    with stand_in as server:
        if server:
            print(f"no --url: a stand-in for {options.server} answers, at {server.url}\n")
        client = client_of(
            options.url or server.url,
            model=options.model,
            api_key=os.environ.get("MEND_SERVER_KEY"),
        )
        served = client.generate(context, options.queries, max_new_tokens=options.max_new_tokens)
    here = distiller.generate(context, options.queries, max_new_tokens=options.max_new_tokens)
    for query, text, own in zip(options.queries, served, here, strict=True):
        print(
            f"{query!r}: {text!r}, {'as' if text == own else f'not {own!r} as'} the library writes"
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
