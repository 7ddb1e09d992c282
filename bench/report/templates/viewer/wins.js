// Which of two methods wins, by group of queries: a table that is filled when it is opened.
const MOST_GROUPS = 200;

function fillWins(view, state, hits) {
  const slices = view.queries.slices.filter((slice) => slice.labels.length > 1);
  const box = byId("wins");
  box.hidden = byId("duels").hidden || !slices.length;
  if (box.hidden) return;
  const slice = slices.find(({ name }) => name === state.wins) ?? slices.find(({ name }) => name === "relation") ?? slices[0];
  box.querySelector("summary").textContent = `Wins by ${slice.name.replaceAll("_", " ")}`;
  box.open = Boolean(state.wins);
  byId("wins-by").replaceChildren(...slices.map(({ name }) => option(name, name.replaceAll("_", " "), slice.name)));
  byId("wins-by").parentNode.hidden = slices.length < 2;
  byId("wins-table").replaceChildren(...(state.wins ? [winsTable(view, state, slice, hits)] : []));
}

function winsTable(view, state, slice, hits) {
  // Its own slice does not filter it, so that another group can be chosen.
  const matching = selected(view, { ...state, slices: { ...state.slices, [slice.name]: "" } }, hits);
  const groups = slice.labels.map((label) => ({ label, counts: [0, 0, 0] }));
  for (const query of matching) {
    const side = duel(view, query);
    if (side && slice.of[query] >= 0) groups[slice.of[query]].counts[DUELS.indexOf(side)]++;
  }
  const counted = groups.filter(({ counts }) => counts.some(Boolean))
    .sort((a, b) => b.counts[0] - b.counts[1] - (a.counts[0] - a.counts[1]));
  const rows = counted.slice(0, MOST_GROUPS).map(({ label, counts }) => {
    const chosen = state.slices[slice.name] === label;
    return element("tr", {},
      element("th", { scope: "row" }, element("button", {
        type: "button", class: "quiet", "aria-pressed": String(chosen), title: chosen ? "all queries again" : "only these queries",
        onclick: () => go({ slices: { ...readState().slices, [slice.name]: chosen ? "" : label } }),
      }, isolated(label))),
      counts.map((n, side) => element("td", { class: `number ${n ? DUELS[side][0] : "tied"}` }, count.format(n))));
  });
  return element("table", { "aria-label": `Wins of ${view.method.label} against ${view.other.label}` },
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, hiddenText("group")),
      DUELS.map(([name, sign]) => element("th", { scope: "col", class: "number" },
        element("span", { "aria-hidden": "true" }, `${sign} `), name)))),
    element("tbody", {}, rows));
}
