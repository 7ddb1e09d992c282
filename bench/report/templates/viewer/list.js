// The list of queries: links, made in batches as they come into sight, from the chosen one on.
const BATCH = 150;
const BEFORE = 30; // queries above a chosen one far down
const list = { shown: [], from: 0, to: 0, current: -1 };

function fillList(view, state, matching) {
  list.shown = matching;
  list.view = view;
  list.base = addressFor({ ...state, query: "" });
  startList(0);
  byId("none").hidden = matching.length > 0;
}

function startList(from) {
  list.from = list.to = from;
  byId("queries").replaceChildren();
  byId("queries").parentNode.scrollTop = 0;
  makeMore();
}

function makeMore() {
  const to = Math.min(list.to + BATCH, list.shown.length);
  byId("queries").append(...items(list.to, to));
  list.to = to;
  byId("rest").hidden = to >= list.shown.length;
  byId("earlier").parentNode.hidden = list.from === 0;
}

function makeEarlier() {
  const box = byId("queries").parentNode, height = box.scrollHeight, top = box.scrollTop;
  const from = Math.max(0, list.from - BATCH);
  byId("queries").prepend(...items(from, list.from));
  list.from = from;
  byId("earlier").parentNode.hidden = from === 0;
  box.scrollTop = top + box.scrollHeight - height; // what was in sight stays there
}

function items(from, to) {
  return list.shown.slice(from, to).map((query, i) => listItem(query, from + i));
}

function listItem(query, place) {
  const { queries } = list.view;
  const id = encodeURIComponent(queries.id[query]);
  const href = `${list.base}${list.base === "#" ? "" : "&"}query=${id}`;
  const side = duel(list.view, query);
  const marks = element("span", { class: "marks" },
    side ? element("span", { class: `duel ${side[0]}`, title: side[0] }, side[1], hiddenText(side[0])) : null,
    shownMethods(list.view).map((method) => rankMark(method, query)));
  return element("li", { "aria-setsize": list.shown.length, "aria-posinset": place + 1 },
    element("a", { href, "data-query": query, "aria-current": query === list.current ? "true" : null },
      element("span", { class: "asked" }, isolated(shortened(queries.prompt[query])), " ",
        isolated(shortened(queries.target[query]), { class: "target" })),
      marks));
}

const LONGEST_ASKED = 300; // characters
const shortened = (text) => (text.length > LONGEST_ASKED ? `${text.slice(0, LONGEST_ASKED)}…` : text);
const hiddenText = (text) => element("span", { class: "unseen" }, ` ${text} `);

// Where a method's first correct proponent is.
function rankMark(method, query) {
  const first = method.measures.first[query];
  if (first === null || reciprocal(method, query) === null) return null;
  const level = first === 0 ? "missed" : first <= 10 ? "near" : "far";
  return element("span", { class: `rank ${level}`, title: `${method.label}: ${firstHit(first)}` },
    first === 0 ? "–" : String(first), hiddenText(first === 0 ? "none correct" : "rank of the first correct"));
}

function firstHit(first) {
  return first === 0 ? "no correct proponent in the list" : `first correct proponent at rank ${count.format(first)}`;
}

function markCurrent(query, focus) {
  list.current = query;
  byId("queries").querySelector("[aria-current]")?.removeAttribute("aria-current");
  const place = list.shown.indexOf(query);
  if (place < 0) return;
  if (place === list.from - 1) makeEarlier();
  if (place === list.to) makeMore();
  if (place < list.from || place >= list.to) startList(Math.max(0, place - BEFORE));
  const link = byId("queries").children[place - list.from].firstChild;
  link.setAttribute("aria-current", "true");
  if (focus) link.focus({ preventScroll: true });
  // By hand: scrollIntoView would move the whole page too.
  const frame = byId("queries").parentNode;
  const box = frame.getBoundingClientRect(), own = link.getBoundingClientRect();
  if (own.top < box.top) frame.scrollTop -= box.top - own.top + 40;
  if (own.bottom > box.bottom) frame.scrollTop += own.bottom - box.bottom + 40;
}

function step(by) {
  const place = list.shown.indexOf(list.current);
  const next = list.shown[place < 0 ? 0 : place + by];
  if (next === undefined) return;
  list.focus = true;
  if (next === list.current) return markCurrent(next, true);
  go({ query: list.view.queries.id[next] }, false);
}

new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting) && !byId("rest").hidden) makeMore();
}, { root: byId("queries").parentNode, rootMargin: "400px" }).observe(byId("rest"));
