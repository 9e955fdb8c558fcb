"""Sets each parameter that a docstring explains on a line of its own, for the page on the API."""

import re

import griffe


class Parameters(griffe.Extension):
    """Finds `name: what it is.` after a docstring's first paragraph."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite the docstring of anything that has one."""
        if obj.docstring:
            obj.docstring.value = on_lines(obj.docstring.value)


def on_lines(text: str) -> str:
    """Return a docstring with what it says of each parameter, and of errors, in paragraphs."""
    first, blank, rest = text.partition("\n\n")
    name = r"[a-z_]+(?:, [a-z_]+)*"
    rest = re.sub(rf"(?:^|(?<=[.;)])\s+|(?<=\n\n))({name}): (?=\S)", r"\n\n`\1`: ", rest)
    rest = re.sub(r"(?<=[.;])\s+(?=Raises [A-Z])", "\n\n", rest)
    return first + blank + rest
