"""`python -m mend.harness`: the command line of lm-evaluation-harness, with `--model mend`.

The harness finds models in a registry of its own alone, so this puts ours there and hands over.
"""

from __future__ import annotations

import sys

from mend.errors import UserError


def main() -> int:
    """Run the harness's own command line; return 2 if what it was told cannot work."""
    try:
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry
    except ImportError:
        print(
            "lm-evaluation-harness is not installed: pip install 'mend-icl[eval]'", file=sys.stderr
        )
        return 2
    import lm_eval.models  # noqa: F401  (the registry's own models, before another is in it)

    if "mend" not in model_registry:
        model_registry.register("mend", target="mend.harness.model:ContextLM")
    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
