"""Kinds of invented entities, and the forms of their names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NameForm:
    """A form of names: two syllables and an ending, with or without a companion word.

    No ending is a suffix of another one, over all forms of all kinds; so a word's ending tells
    its form, and no two entities share a name (``names.Namer``).

    Attributes:
        near_endings: ``endings`` with one letter changed, for near-duplicate names; empty where
            the form has none.
        companions: words that go with the invented one; None stands for invented given names.
        pattern: the order of the two words.
    """

    endings: tuple[str, ...]
    near_endings: tuple[str, ...] = ()
    companions: tuple[str, ...] | None = ("",)
    pattern: str = "{word}"


@dataclass(frozen=True)
class EntityKind:
    """One kind of entity.

    Attributes:
        usual: the form of the usual names.
        second: the form of the second names, which entities under an alias go by.
        article: the article before a name in running text.
        proper: whether names are capitalised.
    """

    name: str
    usual: NameForm
    second: NameForm
    article: str = ""
    proper: bool = True


GIVEN_NAMES = NameForm(("la", "no", "ris", "wen"))

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

KINDS: dict[str, EntityKind] = {
    kind.name: kind
    for kind in (
        # Subjects. Their names are two words, so that they share one with others, as real ones do.
        EntityKind(
            "person",
            NameForm(
                ("sk", "rn", "lt", "lf"), ("sp", "rm", "lk", "ls"), None, "{companion} {word}"
            ),
            NameForm(("bo", "dy"), (), _NICKNAMES, "{companion} {word}"),
        ),
        EntityKind(
            "company",
            NameForm(("dex", "vex"), ("dix", "vax"), _FIRMS, "{word} {companion}"),
            NameForm(("co", "tek"), (), _GROUPS, "{word} {companion}"),
        ),
        EntityKind(
            "work",
            NameForm(("ath", "oth"), ("ash", "osh"), _ADJECTIVES, "{companion} {word}"),
            NameForm(("mir", "dal"), (), _GENRES, "{companion} of {word}"),
        ),
        EntityKind(
            "species",
            NameForm(("ling", "kin"), ("lang", "kan"), _MARKINGS, "{companion} {word}"),
            NameForm(("rus", "mys"), (), _EPITHETS, "{word} {companion}"),
            article="the ",
            proper=False,
        ),
        # Objects: limited pools, mostly of single words.
        EntityKind("city", NameForm(("ton", "burg", "ham", "ford")), NameForm(("port", "stad"))),
        EntityKind("region", NameForm(("ia", "mark", "land")), NameForm(("shire", "vale"))),
        EntityKind(
            "instrument", NameForm(("phone", "tine")), NameForm(("harp", "pipe")), "the ", False
        ),
        EntityKind("language", NameForm(("ish", "ese")), NameForm(("ic", "ari"))),
        EntityKind(
            "occupation", NameForm(("wright", "monger")), NameForm(("smith", "maker")), "a ", False
        ),
        EntityKind("employer", NameForm(("corp", "trust")), NameForm(("bank", "mill"))),
        EntityKind("product", NameForm(("ite", "yl")), NameForm(("stone", "wool")), "", False),
        EntityKind("plant", NameForm(("berry", "root")), NameForm(("leaf", "weed")), "", False),
        EntityKind(
            "author",
            NameForm(("son", "sen"), (), None, "{companion} {word}"),
            NameForm(("quill", "page"), (), _TITLES, "{companion} {word}"),
        ),
    )
}
