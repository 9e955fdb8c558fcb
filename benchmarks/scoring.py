"""Scoring options: a context read once for all that follows it, beside reading it for each option.

The obvious way is what MetaICL's code does: every option is a row of its own, context and all.
"""

from __future__ import annotations

import torch
from models import device, distiller, llm, random_tokens
from side_by_side import compare

from mend.llm import Context, FrozenLLM
from mend.methods.base import Method
from mend.scoring import Question, score_questions

CONTEXT, QUERY, OPTION = 900, 56, 3
QUERIES, OPTIONS, VECTORS = 20, 4, 100


class Tokens(Method):
    """Vanilla ICL."""

    name = "tokens"

    def contexts(self, llm: FrozenLLM, demonstrations) -> Context:
        """Return the demonstrations' word embeddings."""
        return llm.token_context(demonstrations)


class Vectors(Method):
    """MEND: distilled once for each context."""

    name = "vectors"
    distils = True

    def __init__(self, llm: FrozenLLM) -> None:
        """Build a random distiller."""
        super().__init__(llm, {}, {})
        self.distiller = distiller(llm, VECTORS)

    def contexts(self, llm: FrozenLLM, demonstrations) -> Context:
        """Return the distilled vectors."""
        return llm.vector_context(self.distiller(demonstrations))


@torch.no_grad()
def obvious(llm: FrozenLLM, method: Method, questions: list[Question]) -> list[list[float]]:
    """Score each option by one forward pass over context, query and option, row by row."""
    method.eval()
    contexts = {}
    scores = []
    for question in questions:
        if question.context not in contexts:
            context = method.contexts(llm, [question.demonstrations])
            contexts[question.context] = context.embeddings
        before = contexts[question.context]
        row = []
        for option in question.options:
            text = torch.tensor([[*question.query, *option]], device=llm.device)
            embeddings = torch.cat([before, llm.embedding(text)], dim=1)
            logits = llm.model(inputs_embeds=embeddings, use_cache=False).logits
            last = logits[0, -len(option) - 1 : -1].float().log_softmax(-1)
            target = torch.tensor(option, device=llm.device)
            row.append(last.gather(1, target[:, None]).mean().item())
        scores.append(row)
    return scores


def questions(shared: bool, number: int) -> list[Question]:
    """Return questions that share their demonstrations, or have each its own."""
    generator = torch.Generator().manual_seed(2)
    contexts = [random_tokens(CONTEXT, generator) for _ in range(1 if shared else number)]
    return [
        Question(
            context=0 if shared else index,
            demonstrations=contexts[0 if shared else index],
            query=random_tokens(QUERY, generator),
            options=[random_tokens(OPTION, generator) for _ in range(OPTIONS)],
        )
        for index in range(number)
    ]


def largest_difference(first: list[list[float]], second: list[list[float]]) -> float:
    """Return the largest difference between two lists of scores."""
    return (torch.tensor(first) - torch.tensor(second)).abs().max().item()


def run() -> list[dict]:
    """Compare all parts; return the table's rows."""
    model = llm()
    tolerance = 0.2 if device().type == "cuda" else 1e-3
    shared, drawn = questions(True, QUERIES), questions(False, 4)
    rows = []
    for name, method, asked, goal in (
        ("scoring, ICL, 20 queries share 900 tokens", Tokens(model, {}, {}), shared, 15),
        ("scoring, 100 vectors, 20 queries share them", Vectors(model), shared, 5),
        ("scoring, ICL, demonstrations for each row", Tokens(model, {}, {}), drawn, 3),
    ):
        rows.append(
            compare(
                name,
                lambda method=method, asked=asked: score_questions(
                    model, method, asked, contexts_at_once=4
                ),
                lambda method=method, asked=asked: obvious(model, method, asked),
                largest_difference,
                tolerance,
                goal,
                repeats=1 if device().type == "cpu" else 3,
            )
        )
    return rows


if __name__ == "__main__":
    run()
