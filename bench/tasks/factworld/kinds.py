"""Kinds of invented entities, and what their names look like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How names are built: two syllables and an ending, with or without a companion word.

    No ending is a suffix of another one, over all forms of all kinds; so a word's ending tells
    its form, and no two entities share a name (``names.Namer``).

    Attributes:
        endings: of ordinary names.
        near_endings: ``endings`` with one letter changed, for near-duplicate names; empty where
            the form has none.
        companions: words that go with the invented one; None stands for invented given names.
        pattern: where the two words go.
    """

    endings: tuple[str, ...]
    near_endings: tuple[str, ...] = ()
    companions: tuple[str, ...] | None = ("",)
    pattern: str = "{word}"


@dataclass(frozen=True)
class Kind:
    """One kind of entity.

    Attributes:
        usual: form of the usual names.
        second: form of the second names, which entities under an alias go by.
        article: what stands before a name in running text.
        proper: whether names are capitalised.
    """

    name: str
    usual: Form
    second: Form
    article: str = ""
    proper: bool = True


GIVEN_NAMES = Form(("la", "no", "ris", "wen"))

_TITLES = ("Doctor", "Captain", "Sister", "Brother", "Father", "Mother", "Uncle", "Aunt")
_NICKNAMES = (
    "Old", "Young", "Little", "Red", "Tall", "Quiet", "Lucky", "Silent",
    "Merry", "Black", "Gentle", "Swift", "Brave", "Clever", "Honest", "Sleepy",
)  # fmt: skip
_FIRMS = ("Works", "Mills", "Lines", "Foundry", "Partners", "Traders", "Brewers", "Press")
_GROUPS = ("Group", "House", "Union", "Guild", "Circle", "Fund", "Syndicate", "Exchange")
_MARKINGS = (
    "spotted", "striped", "crested", "grey", "brown", "horned", "speckled", "hooded",
    "dwarf", "giant", "marsh", "river", "mountain", "forest", "desert", "snow",
)  # fmt: skip
_EPITHETS = ("minor", "major", "alba", "rubra", "vera", "montana", "borealis", "fluvialis")
_ADJECTIVES = (
    "Silver", "Golden", "Hidden", "Broken", "Distant", "Burning", "Frozen", "Endless",
    "Crooked", "Hollow", "Painted", "Sunken", "Wandering", "Forgotten", "Scarlet", "Bitter",
)  # fmt: skip
_GENRES = ("Ballad", "Song", "Book", "Tale", "Legend", "Letters", "Chronicle", "Dream")

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        # Subjects. Their names are two words, so that they share one with others, as real ones do.
        Kind(
            "person",
            Form(("sk", "rn", "lt", "lf"), ("sp", "rm", "lk", "ls"), None, "{companion} {word}"),
            Form(("bo", "dy"), (), _NICKNAMES, "{companion} {word}"),
        ),
        Kind(
            "company",
            Form(("dex", "vex"), ("dix", "vax"), _FIRMS, "{word} {companion}"),
            Form(("co", "tek"), (), _GROUPS, "{word} {companion}"),
        ),
        Kind(
            "work",
            Form(("ath", "oth"), ("ash", "osh"), _ADJECTIVES, "{companion} {word}"),
            Form(("mir", "dal"), (), _GENRES, "{companion} of {word}"),
        ),
        Kind(
            "species",
            Form(("ling", "kin"), ("lang", "kan"), _MARKINGS, "{companion} {word}"),
            Form(("rus", "mys"), (), _EPITHETS, "{word} {companion}"),
            article="the ",
            proper=False,
        ),
        # Objects: limited pools, mostly of single words.
        Kind("city", Form(("ton", "burg", "ham", "ford")), Form(("port", "stad"))),
        Kind("region", Form(("ia", "mark", "land")), Form(("shire", "vale"))),
        Kind("instrument", Form(("phone", "tine")), Form(("harp", "pipe")), "the ", False),
        Kind("language", Form(("ish", "ese")), Form(("ic", "ari"))),
        Kind("occupation", Form(("wright", "monger")), Form(("smith", "maker")), "a ", False),
        Kind("employer", Form(("corp", "trust")), Form(("bank", "mill"))),
        Kind("product", Form(("ite", "yl")), Form(("stone", "wool")), "", False),
        Kind("plant", Form(("berry", "root")), Form(("leaf", "weed")), "", False),
        Kind(
            "author",
            Form(("son", "sen"), (), None, "{companion} {word}"),
            Form(("quill", "page"), (), _TITLES, "{companion} {word}"),
        ),
    )
}
