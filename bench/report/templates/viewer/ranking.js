// One method's proponents of a query, as a table.
const firstShown = () => (matchMedia("(max-width: 30rem)").matches ? 5 : 20);

// How many of a list's proponents and opponents are shown.
function shownOf(entry, state) {
  const most = state.all ? Infinity : firstShown();
  return { proponents: Math.min(entry.n, most), opponents: Math.min(entry.p.length - entry.n, most) };
}

async function rankingSection(view, method, query, state, hits) {
  const { group, queries } = view;
  const entry = await rankingOf(group, method, query);
  const name = `ranking-${method.place}`;
  const heading = element("h3", { id: name }, isolated(method.label));
  const section = element("section", { class: "ranking", "aria-labelledby": name },
    element("div", { class: "over" }, heading, verdict(method, query, entry)));
  if (!entry) {
    section.append(element("p", { class: "note" }, "This method has no ranking of this query."));
    return section;
  }
  const shared = sharedWords(queries.prompt[query], queries.target[query]);
  const rivals = await Promise.all(shownMethods(view).filter((one) => one !== method)
    .map(async (one) => ({ label: one.label, ranks: await ranksOf(group, one, query) })));
  const { proponents: shown, opponents } = shownOf(entry, state);
  section.append(...kinds(method, query), ...foundAt(entry, hits));
  const proponents = { from: 0, to: shown, scores: entry.s, shares: entry.t, rivals, name };
  if (entry.n === 0) section.append(element("p", { class: "note" }, "An empty list."));
  else section.append(await rankingTable(group, entry, proponents, shared, method));
  if (shown < entry.n || (state.all && entry.n > firstShown())) {
    section.append(element("button", {
      type: "button", class: "quiet all", onclick: () => go({ all: state.all ? "" : "1" }, false),
    }, state.all ? `Show the first ${firstShown()}` : `Show all ${count.format(entry.n)}`));
  }
  if (opponents) {
    const title = `${name}-opponents`;
    section.append(element("h4", { id: title }, "Opponents", element("small", {}, " the strongest first")));
    const weakest = { from: entry.n, to: entry.n + opponents, scores: entry.o, shares: entry.u, rivals: [], name: title };
    section.append(await rankingTable(group, entry, weakest, shared, method));
  }
  return section;
}

// Rank by passage; opponents are no part of it.
async function ranksOf(group, method, query) {
  const entry = await rankingOf(group, method, query);
  return new Map((entry?.p ?? []).slice(0, entry?.n).map((passage, i) => [passage, i + 1]));
}

// Where in a list the passages stand that a search of passages found.
function foundAt(entry, hits) {
  if (!hits) return [];
  const places = [...entry.p.keys()].filter((i) => hits.passages.has(entry.p[i]));
  const ranks = places.map((i) => (i < entry.n ? String(i + 1) : `opponent ${i - entry.n + 1}`));
  return [element("p", { class: "found" }, ranks.length ? `The words searched for are in: ${ranks.join(", ")}.`
    : "No passage of this list holds the words searched for.")];
}

// One end of a list; `shares` may be shorter than it, and `scores` belong to its first passage on.
async function rankingTable(group, entry, { from, to, scores, shares, rivals, name }, shared, method) {
  const ofProponents = from === 0;
  const judged = ofProponents && entry.c;
  const columns = ofProponents ? method.columns.filter((column) => entry.x?.[column]) : [];
  const passages = await passagesOf(group, entry.p.slice(from, to));
  const head = element("tr", {},
    element("th", { scope: "col", class: "number" }, element("abbr", { title: "rank" }, "#")),
    judged ? element("th", { scope: "col", class: "sign" }, hiddenText("correct")) : null,
    element("th", { scope: "col" }, "passage"),
    columns.map((column) => element("th", { scope: "col", class: kindOf(entry, column) }, isolated(column.replaceAll("_", " ")))),
    rivals.map(({ label }) => element("th", { scope: "col", class: "number rival" }, "in ", isolated(label))),
    element("th", { scope: "col", class: "number" }, "score"));
  const rows = passages.map((passage, i) => {
    const right = judged && entry.c[i] === "1";
    const own = shares?.[i] ? sharesOf(shares[i], scores[i]) : null;
    return element("tr", { class: right ? "correct" : null },
      element("td", { class: "number rank-of" }, String(i + 1)),
      judged ? element("td", { class: "sign" },
        right ? element("span", { title: "correct", "aria-hidden": "true" }, "✓") : null,
        hiddenText(right ? "correct" : "not correct")) : null,
      element("td", { class: "passage" }, passage.text.trim() ? passageText(passage.text, shared, own) : element("span", { class: "absent" }, "(empty)"),
        own ? sharesTold(passage.text, own) : null,
        element("small", { class: "id" }, isolated(passage.id))),
      columns.map((column) => element("td", { class: kindOf(entry, column), "data-head": column.replaceAll("_", " ") }, cell(entry.x[column][i]))),
      rivals.map((rival) => element("td", { class: "number rival", "data-head": `in ${rival.label}` }, rivalRank(rival, entry.p[from + i]))),
      element("td", { class: "number", "data-head": "score" }, shortNumber(scores[i])));
  });
  return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": name },
    element("table", { class: "proponents", "aria-labelledby": name }, element("thead", {}, head), element("tbody", {}, rows)));
}

function rivalRank(rival, passage) {
  const rank = rival.ranks.get(passage);
  return rank === undefined ? element("span", { class: "absent", title: "not in its list" }, "–") : String(rank);
}

const kindOf = (entry, column) => (entry.x[column].some((v) => typeof v === "string") ? "word" : "number");

function cell(value) {
  if (typeof value === "number") return shortNumber(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return value === null ? "–" : isolated(String(value).replaceAll("_", " "));
}

function verdict(method, query, entry) {
  if (!entry) return null;
  const first = method.measures.first[query];
  const right = entry.c ? [...entry.c].filter((digit) => digit === "1").length : 0;
  return element("p", { class: "verdict" }, first === null ? `${plural(entry.n, "proponent")}, not judged`
    : first === 0 ? `none of ${count.format(entry.n)} correct`
    : `${firstHit(first)}; ${count.format(right)} of ${count.format(entry.n)} correct`);
}

// How the first ten support the fact, where the cell's table holds it.
function kinds(method, query) {
  const shares = method.measures.kinds
    .map((kind) => [kind.name.replaceAll("_", " "), kind.shares[query]])
    .filter(([, share]) => share)
    .sort((a, b) => b[1] - a[1]);
  if (!shares.length) return [];
  const items = shares.map(([kind, share]) => element("li", {},
    element("b", {}, `${Math.round(100 * share)}%`), " ", isolated(kind)));
  return [element("div", { class: "kinds" }, element("span", { id: `kinds-${method.place}` }, "First ten by support:"),
    element("ul", { "aria-labelledby": `kinds-${method.place}` }, items))];
}
