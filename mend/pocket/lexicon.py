"""The words of the pocket world.

An attribute (say `mood`) has values (`happy`, `sad`, `angry`, `calm`), and each value is the
meaning of a few words (`merry`, `glad`, ...). The name of a value is a word as well: a natural
label.
"""

from __future__ import annotations

from functools import cache

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "mood": {
        "happy": ("merry", "glad", "jolly", "joyful", "cheery"),
        "sad": ("gloomy", "tearful", "mournful", "weepy", "glum"),
        "angry": ("furious", "cross", "livid", "grumpy", "irate"),
        "calm": ("placid", "serene", "mellow", "cool", "restful"),
    },
    "size": {
        "big": ("huge", "vast", "giant", "massive", "enormous"),
        "small": ("tiny", "little", "mini", "wee", "petite"),
        "tall": ("lofty", "lanky", "soaring", "towering", "steep"),
        "thin": ("slim", "lean", "narrow", "slender", "skinny"),
    },
    "colour": {
        "red": ("crimson", "scarlet", "ruby", "maroon", "cherry"),
        "green": ("emerald", "lime", "olive", "mint", "jade"),
        "blue": ("navy", "azure", "cobalt", "indigo", "sapphire"),
        "yellow": ("golden", "lemon", "amber", "blond", "sandy"),
    },
    "animal": {
        "bird": ("robin", "owl", "crow", "swan", "finch"),
        "fish": ("trout", "salmon", "cod", "carp", "tuna"),
        "beast": ("fox", "bear", "wolf", "deer", "hare"),
        "insect": ("bee", "ant", "wasp", "moth", "beetle"),
    },
    "food": {
        "fruit": ("apple", "plum", "pear", "fig", "grape"),
        "bread": ("bun", "roll", "loaf", "bagel", "toast"),
        "meat": ("ham", "bacon", "steak", "mutton", "sausage"),
        "drink": ("tea", "cider", "juice", "coffee", "cocoa"),
    },
    "place": {
        "water": ("lake", "river", "sea", "pond", "brook"),
        "house": ("kitchen", "attic", "cellar", "parlour", "hall"),
        "wild": ("forest", "meadow", "hill", "valley", "moor"),
        "town": ("market", "street", "square", "station", "bridge"),
    },
    "action": {
        "moves": ("runs", "jumps", "walks", "skips", "hops"),
        "speaks": ("sings", "shouts", "calls", "yells", "hums"),
        "idles": ("sleeps", "naps", "dozes", "lies", "snoozes"),
        "works": ("digs", "builds", "paints", "mends", "cooks"),
    },
}

TREES = (
    "alder",
    "birch",
    "cedar",
    "elm",
    "hazel",
    "larch",
    "maple",
    "oak",
    "pine",
    "rowan",
    "spruce",
    "poplar",
)
PEOPLE = ("tom", "ann", "bill", "sue", "jack", "kate", "luke", "mary", "ned", "rose", "sam", "will")
# Labels that say nothing about the words they mark.
ARBITRARY_LABELS = TREES + PEOPLE

# Labels of relations: same value, another value of the attribute, another attribute.
RELATION_LABELS = (
    ("yes", "no", "maybe"),
    ("true", "false", "unknown"),
    ("same", "opposite", "unrelated"),
)

# The first word of a row tells its kind, as MetaICL's inputs do by their form.
OPENERS: dict[str, tuple[str, ...]] = {
    "label": ("the", "a", "this", "that"),
    "relation": ("if", "when", "suppose", "given"),
    "pick": ("pick", "choose", "take", "find"),
    "look-up": ("ask", "recall"),
}
PROSE_WORDS = ("means", "is", "like", "not", "in", "eats", "sees", "and", "met", "near", ".")

VALUE_OF_WORD: dict[str, tuple[str, str]] = {
    word: (attribute, value)
    for attribute, values in ATTRIBUTES.items()
    for value, words in values.items()
    for word in words
}


@cache
def values_of(attribute: str) -> tuple[str, ...]:
    """Return the names of an attribute's values, in the lexicon's order."""
    return tuple(ATTRIBUTES[attribute])


@cache
def words_of(attribute: str) -> tuple[str, ...]:
    """Return all words of an attribute (not the names of its values)."""
    return tuple(word for words in ATTRIBUTES[attribute].values() for word in words)


def vocabulary() -> tuple[str, ...]:
    """Return every word of the world once, in a fixed order."""
    names = (value for values in ATTRIBUTES.values() for value in values)
    relations = (label for labels in RELATION_LABELS for label in labels)
    openers = (word for words in OPENERS.values() for word in words)
    groups = (VALUE_OF_WORD, names, ARBITRARY_LABELS, relations, openers, PROSE_WORDS)
    return tuple(dict.fromkeys(word for group in groups for word in group))
