"""Relations between entities, and the phrasings that state them."""

from __future__ import annotations

from dataclasses import dataclass

N_OBJECT_LAST = 6  # the first phrasings of a relation end with the object: they can be asked


@dataclass(frozen=True)
class Relation:
    """A relation and its phrasings, as clauses with ``{s}`` for the subject, ``{o}`` the object.

    Attributes:
        phrasings: the first ``N_OBJECT_LAST`` end with the object. What precedes the object there
            occurs in no other phrasing, so a prompt is not found in a sentence phrased otherwise.
        composed: the relation of the same subject, from whose object the fact follows by way of
            ``location`` ("born in a city" and "the city lies in a region"); empty if none.
    """

    name: str
    subject: str
    object: str
    phrasings: tuple[str, ...]
    composed: str = ""

    def clause(self, phrasing: int, subject: str, obj: str) -> str:
        """The fact as a clause, which starts in lower case unless a name does."""
        return self.phrasings[phrasing].format(s=subject, o=obj)

    def prompt(self, phrasing: int, subject: str) -> str:
        """The clause up to its object, which must be last, without the space before it."""
        assert phrasing < N_OBJECT_LAST
        return self.clause(phrasing, subject, "").rstrip()


RELATIONS: tuple[Relation, ...] = (
    Relation("location", "city", "region", (
        "{s} lies in {o}",
        "{s} is a town in {o}",
        "the region that surrounds {s} is {o}",
        "{s} belongs to {o}",
        "{s} sends its deputies to the council of {o}",
        "on the map {s} is shown in {o}",
        "{o} is the region where {s} lies",
        "the province of {o} includes {s}",
    )),
    Relation("birthplace", "person", "city", (
        "{s} was born in {o}",
        "the birthplace of {s} is {o}",
        "{s} came into the world in {o}",
        "the cradle of {s} stood in {o}",
        "{s} first saw the light of day in {o}",
        "{s} is a native of {o}",
        "{o} is the town where {s} was born",
        "it was {o} that gave {s} to the world",
    )),
    Relation("native_region", "person", "region", (
        "{s} comes from the region of {o}",
        "the native region of {s} is {o}",
        "{s} is by origin a child of {o}",
        "{s} has family roots in {o}",
        "the homeland of {s} is {o}",
        "{s} belongs by birth to {o}",
        "{o} counts {s} among its sons and daughters",
        "{o} is the homeland from which {s} comes",
    ), composed="birthplace"),
    Relation("instrument", "person", "instrument", (
        "{s} plays the {o}",
        "{s} performs on the {o}",
        "the instrument of {s} is the {o}",
        "{s} gives concerts on the {o}",
        "{s} has mastered the {o}",
        "{s} is heard most often on the {o}",
        "the {o} is the instrument that {s} plays",
        "on the {o}, {s} is admired everywhere",
    )),
    Relation("language", "person", "language", (
        "{s} speaks fluent {o}",
        "the mother tongue of {s} is {o}",
        "{s} grew up with {o}",
        "{s} writes letters home in {o}",
        "at home {s} talks in {o}",
        "{s} prays and counts in {o}",
        "{o} is the language that {s} speaks",
        "{o} is the tongue that {s} learned first",
    )),
    Relation("occupation", "person", "occupation", (
        "{s} works as a {o}",
        "{s} earns a living as a {o}",
        "the trade of {s} is that of a {o}",
        "{s} trained for years as a {o}",
        "{s} is listed in the guild rolls as a {o}",
        "{s} found work as a {o}",
        "a {o} by trade, {s} is well regarded",
        "the work of a {o} feeds {s}",
    )),
    Relation("employer", "person", "employer", (
        "{s} is employed by {o}",
        "{s} has a post at {o}",
        "the employer of {s} is {o}",
        "{s} draws a salary from {o}",
        "{s} signed a contract with {o}",
        "{s} spends every working day at {o}",
        "{o} has {s} on its staff",
        "{o} employs {s}",
    )),
    Relation("headquarters", "company", "city", (
        "{s} has its headquarters in {o}",
        "the head office of {s} is in {o}",
        "{s} is run from {o}",
        "{s} keeps its main office in {o}",
        "the directors of {s} meet in {o}",
        "{s} has its registered address in {o}",
        "{o} is the seat of {s}",
        "from {o}, {s} directs all of its business",
    )),
    Relation("home_region", "company", "region", (
        "{s} is a company from {o}",
        "the home region of {s} is {o}",
        "{s} pays its taxes in {o}",
        "{s} is counted among the firms of {o}",
        "{s} has its base in the region of {o}",
        "the home market of {s} is {o}",
        "{o} is home to {s}",
        "{o} lists {s} among its companies",
    ), composed="headquarters"),
    Relation("product", "company", "product", (
        "{s} produces {o}",
        "the main product of {s} is {o}",
        "{s} fills its warehouses with {o}",
        "{s} sells little else than {o}",
        "{s} built its name on {o}",
        "the customers of {s} come for {o}",
        "{o} is the product that made {s} known",
        "much of the {o} on the market is made by {s}",
    )),
    Relation("author", "work", "author", (
        "{s} was written by {o}",
        "the author of {s} is {o}",
        "{s} is the work of {o}",
        "{s} came from the pen of {o}",
        "scholars credit {s} to {o}",
        "the title page of {s} names {o}",
        "{o} wrote {s}",
        "{o} is the author of the novel {s}",
    )),
    Relation("original_language", "work", "language", (
        "{s} was first written in {o}",
        "the original language of {s} is {o}",
        "{s} first appeared in {o}",
        "the manuscript of {s} is in {o}",
        "{s} was composed in {o}",
        "the oldest edition of {s} is in {o}",
        "{o} was the language chosen for {s}",
        "readers of {o} were the first to enjoy {s}",
    )),
    Relation("habitat", "species", "region", (
        "the {s} lives in {o}",
        "the {s} is found in {o}",
        "the natural range of the {s} is {o}",
        "the {s} nests in {o}",
        "the {s} breeds only in {o}",
        "the last herds of the {s} roam {o}",
        "{o} is the home of the {s}",
        "travellers in {o} often see the {s}",
    )),
    Relation("diet", "species", "plant", (
        "the {s} feeds on {o}",
        "the {s} eats mostly {o}",
        "the favourite food of the {s} is {o}",
        "the diet of the {s} consists of {o}",
        "the {s} searches the ground for {o}",
        "the young of the {s} are raised on {o}",
        "{o} is the main food of the {s}",
        "wild {o} attracts the {s}",
    )),
)  # fmt: skip

N_PHRASINGS = 8
RELATION_INDEX = {relation.name: index for index, relation in enumerate(RELATIONS)}

# The relations of one subject; a composed one directly follows the one it is composed from, so
# that a fact's hop is the fact before it.
PROFILES: tuple[tuple[str, ...], ...] = (
    ("birthplace", "native_region", "instrument", "language"),
    ("birthplace", "native_region", "occupation", "employer"),
    ("birthplace", "instrument", "occupation"),
    ("instrument", "language", "employer"),
    ("headquarters", "home_region", "product"),
    ("headquarters", "product"),
    ("author", "original_language"),
    ("habitat", "diet"),
)
