// Which queries are listed, and in which order.
const OUTCOMES = [
  ["hit1", "first proponent correct", (first) => first === 1],
  ["hit10", "correct in the first 10", (first) => first >= 1 && first <= 10],
  ["listed", "correct anywhere in the list", (first) => first >= 1],
  ["miss10", "none correct in the first 10", (first) => first === 0 || first > 10],
  ["missed", "none correct in the list", (first) => first === 0],
];
const DUELS = [
  ["won", "▲", (difference) => difference > 0],
  ["lost", "▼", (difference) => difference < 0],
  ["tied", "=", (difference) => difference === 0],
];

const columnOf = (method, name) => method?.measures.columns.find((column) => column.name === name);
const reciprocals = (method) => columnOf(method, catalog.reciprocal);
const reciprocal = (method, query) => reciprocals(method)?.values[query] ?? null;

// By reciprocal rank; null where one of the two was not scored.
function difference(view, query) {
  const own = reciprocal(view.method, query), its = reciprocal(view.other, query);
  return own === null || its === null ? null : own - its;
}

function duel(view, query) {
  const value = view.other ? difference(view, query) : null;
  return value === null ? null : DUELS.find(([, , test]) => test(value));
}

// The methods that are shown, the first one leading.
const shownMethods = (view) => [view.method, view.other, view.third].filter(Boolean);

// The queries that the filters leave, without that of the outcome; `hits` as of `passageSearch`.
function selected(view, state, hits) {
  const { queries, method } = view;
  const words = hits ? [] : searchWords(state);
  const slices = queries.slices
    .filter((slice) => state.slices[slice.name])
    .map((slice) => [slice.of, slice.labels.indexOf(state.slices[slice.name])]);
  const scores = columnOf(method, state.score);
  const low = bound(state.min, -Infinity), high = bound(state.max, Infinity);
  const matching = [];
  for (let query = 0; query < queries.id.length; query++) {
    if (hits && !hits.queries.has(query)) continue;
    if (slices.some(([of, label]) => of[query] !== label)) continue;
    if (scores && (state.min || state.max)) {
      const value = scores.values[query];
      if (value === null || scores.scale * value < low || scores.scale * value > high) continue;
    }
    if (words.length && !words.every((word) => haystack(queries, query).includes(word))) continue;
    matching.push(query);
  }
  return matching;
}

function bound(text, otherwise) {
  const value = parseFloat(text.replace(",", ".").replace("−", "-"));
  return Number.isNaN(value) ? otherwise : value;
}

function haystack(queries, query) {
  queries.lower ??= [];
  return queries.lower[query] ??=
    `${queries.prompt[query]} ${queries.target[query]} ${queries.id[query]}`.toLowerCase();
}

function withOutcome(view, matching, filter) {
  const outcome = OUTCOMES.find(([name]) => name === filter);
  if (outcome) {
    const first = view.method.measures.first;
    return matching.filter((query) => first[query] !== null && reciprocal(view.method, query) !== null
      && outcome[2](first[query]));
  }
  const side = view.other && DUELS.find(([name]) => name === filter);
  return side ? matching.filter((query) => duel(view, query) === side) : matching;
}

function tallies(view, matching) {
  const counts = new Map(DUELS.map((side) => [side, 0]));
  for (const query of matching) {
    const side = duel(view, query);
    if (side) counts.set(side, counts.get(side) + 1);
  }
  return counts;
}

function sorted(view, matching, sort) {
  const [name, order] = sort.split(":");
  const gain = name === "gain" && view.other;
  const values = gain ? null : columnOf(view.method, name)?.values;
  if (!gain && !values) return matching;
  const of = gain ? (query) => difference(view, query) : (query) => values[query];
  const sign = order === "asc" ? 1 : -1;
  return [...matching].sort((a, b) => {
    const x = of(a), y = of(b);
    if (x === null || y === null) return (x === null) - (y === null); // not measured: last
    return sign * (x - y) || a - b;
  });
}
