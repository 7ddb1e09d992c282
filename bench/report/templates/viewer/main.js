// From the address to the page.
let catalog = null, shownView = null, shownList = "", turnOfView = 0;

function control(id, field, event = "change") {
  byId(id).addEventListener(event, () => go({ [field]: byId(id).value }, event === "change"));
}

function groupOf(state) {
  return catalog.groups.find((g) => g.task === state.task && (!state.model || g.model === state.model))
    ?? catalog.groups[0];
}

async function viewFor(state) {
  const group = groupOf(state);
  const labelled = (label) => group.methods.find((method) => method.label === label);
  const method = labelled(state.method) ?? group.methods[0];
  const other = labelled(state.other) === method ? undefined : labelled(state.other);
  const last = other && labelled(state.third);
  const third = last === method || last === other ? undefined : last;
  const [queries] = await Promise.all([load(`${group.name}-queries`),
    ...[method, other, third].map((one) => measure(group, one))]);
  queries.places ??= new Map(queries.id.map((id, place) => [id, place]));
  return { group, method, other, third, queries };
}

async function measure(group, method) {
  if (method) method.measures ??= await load(`${group.name}-m${method.place}-measures`);
}

async function apply() {
  const turn = ++turnOfView, state = readState();
  try {
    const view = await viewFor(state);
    if (turn !== turnOfView) return;
    shownView = view;
    const listed = addressFor({ ...state, query: "" }); // links of the list hold all of it
    if (listed !== shownList) fillControls(view, state);
    const hits = await passageSearch(view, state);
    if (turn !== turnOfView) return;
    if (listed !== shownList) {
      showList(view, state, hits);
      shownList = listed;
    }
    const asked = view.queries.places.get(state.query);
    const query = asked ?? list.shown[0];
    if (state.query && asked === undefined) return fail(`No query is called ${state.query}.`);
    byId("status").textContent = "";
    if (query === undefined) return byId("main").replaceChildren(element("p", { class: "note" }, "No query to show."));
    markCurrent(query, list.focus);
    list.focus = false;
    await showQuery(view, query, state, hits);
    document.documentElement.dataset.ready = addressFor(state);
  } catch (error) {
    fail(error.message);
  }
}

function fail(message) {
  byId("status").textContent = message;
  byId("main").replaceChildren(element("p", { class: "note failed" }, message));
}

function showList(view, state, hits) {
  const matching = selected(view, state, hits);
  const shown = sorted(view, withOutcome(view, matching, state.filter), state.sort);
  fillList(view, state, shown);
  const all = view.queries.id.length;
  byId("count").textContent = shown.length === all ? plural(all, "query", "queries")
    : `${count.format(shown.length)} of ${plural(all, "query", "queries")}`;
  byId("duels").hidden = !view.other || !reciprocals(view.method) || !reciprocals(view.other);
  fillWins(view, state, hits);
  if (byId("duels").hidden) return;
  byId("duel-title").replaceChildren(isolated(view.method.label), " against ", isolated(view.other.label));
  byId("duel-buttons").replaceChildren(...[...tallies(view, matching)].map(([[name, sign], n]) =>
    element("button", {
      type: "button", class: `duel ${name}`, "aria-pressed": String(state.filter === name),
      onclick: () => {
        go({ filter: readState().filter === name ? "" : name });
        byId("duel-buttons").querySelector(`.${name}`).focus();
      },
    }, element("span", { "aria-hidden": "true" }, sign), ` ${name} `, element("b", {}, count.format(n)))));
}

// ------------------------------------------------------------------ controls

function fillControls(view, state) {
  const { group, method, other, third, queries } = view;
  const focused = document.activeElement?.id;
  byId("group").replaceChildren(...catalog.groups.map((g) =>
    option(g.name, `${g.task} × ${g.model}`, group.name)));
  byId("group").parentNode.hidden = catalog.groups.length < 2;
  byId("method").replaceChildren(...group.methods.map((m) => option(m.label, m.label, method.label)));
  byId("other").replaceChildren(option("", "nothing", other?.label ?? ""), ...group.methods
    .filter((m) => m !== method).map((m) => option(m.label, m.label, other?.label)));
  byId("other").parentNode.hidden = group.methods.length < 2;
  byId("third").replaceChildren(option("", "nothing", third?.label ?? ""), ...group.methods
    .filter((m) => m !== method && m !== other).map((m) => option(m.label, m.label, third?.label)));
  byId("third").parentNode.hidden = !other || group.methods.length < 3;
  byId("swap").hidden = !other;
  byId("in").checked = state.in === IN_PASSAGES;
  byId("search").placeholder = byId("in").checked ? "Search passages" : "Search prompts and targets";
  if (document.activeElement !== byId("search")) byId("search").value = state.search;
  fillSlices(queries, state);
  const judged = Boolean(reciprocals(method));
  const outcomes = [...OUTCOMES, ...(other ? DUELS.map(([name]) => [name, `${name} against ${other.label}`]) : [])];
  byId("filter").replaceChildren(option("", "any", state.filter),
    ...outcomes.map(([name, title]) => option(name, title, state.filter)));
  byId("filter").parentNode.hidden = !judged;
  const columns = method.measures.columns;
  byId("score").replaceChildren(option("", "any", state.score),
    ...columns.map((column) => option(column.name, column.title, state.score)));
  byId("scores").hidden = !columns.length;
  for (const side of ["min", "max"]) {
    if (document.activeElement !== byId(side)) byId(side).value = state[side];
    byId(side).disabled = !byId("score").value;
  }
  byId("sort").replaceChildren(option("", "as in the file", state.sort),
    ...(other && judged ? [option("gain:desc", "most won first", state.sort), option("gain:asc", "most lost first", state.sort)] : []),
    ...columns.flatMap((column) => [option(`${column.name}:desc`, `${column.title}, high first`, state.sort),
      option(`${column.name}:asc`, `${column.title}, low first`, state.sort)]));
  const active = Object.values(state.slices).filter(Boolean).length + Boolean(state.filter)
    + Boolean(state.score && (state.min || state.max)) + Boolean(state.sort);
  byId("active").textContent = active ? `${active} set` : "";
  byId("clear").hidden = !active && !state.search;
  byId("keys").checked = state.keys !== "off";
  if (focused) byId(focused)?.focus();
}

function fillSlices(queries, state) {
  byId("slices").replaceChildren(...queries.slices.filter((slice) => slice.labels.length > 1).map((slice, i) => {
    const select = element("select", { id: `slice-${i}` }, option("", "any", ""),
      slice.labels.map((label) => option(label, label, state.slices[slice.name])));
    select.addEventListener("change", () =>
      go({ slices: { ...readState().slices, [slice.name]: select.value } }));
    return element("label", {}, element("span", {}, isolated(slice.name.replaceAll("_", " "))), select);
  }));
}

async function toggleGroup() {
  const group = catalog.groups.find((g) => g.name === byId("group").value);
  const has = (label) => group.methods.some((method) => method.label === label);
  const { method, other, third } = readState();
  const chosen = has(method) ? { method, other: has(other) ? other : "", third: has(third) ? third : "", query: "" }
    : { ...await opened(group), third: "" };
  go({ task: group.task, model: group.model, ...chosen, wins: "",
    slices: {}, filter: "", score: "", min: "", max: "", sort: "" });
}

// What is shown where nothing was chosen: two methods at a query on which they disagree.
async function opened(group) {
  const [method, other, query] = group.opening;
  const { id } = await load(`${group.name}-queries`);
  return { method: group.methods[method].label, other: group.methods[other]?.label ?? "", query: id[query] ?? "" };
}

async function start() {
  try {
    catalog = await load("catalog");
  } catch (error) {
    return fail(error.message);
  }
  catalog.groups.forEach((group, i) => {
    group.name = `g${i}`;
    group.methods.forEach((method, place) => { method.place = place; });
  });
  if (!catalog.groups.length) return fail("There are no rankings to show.");
  byId("group").addEventListener("change", toggleGroup);
  for (const id of ["method", "other", "third", "filter", "score", "sort"]) control(id, id);
  for (const id of ["search", "min", "max"]) control(id, id, "input");
  byId("in").addEventListener("change", () => go({ in: byId("in").checked ? IN_PASSAGES : "" }));
  byId("wins-by").addEventListener("change", () => go({ wins: byId("wins-by").value }));
  byId("wins").addEventListener("toggle", () => {
    const { open } = byId("wins"), { wins } = readState();
    if (open !== Boolean(wins)) go({ wins: open ? byId("wins-by").value : "" }, false);
  });
  byId("swap").addEventListener("click", swap);
  byId("clear").addEventListener("click", () => {
    byId("search").value = "";
    go({ search: "", in: "", slices: {}, filter: "", score: "", min: "", max: "", sort: "" });
  });
  byId("earlier").addEventListener("click", makeEarlier);
  byId("keys").addEventListener("change", () => go({ keys: byId("keys").checked ? "" : "off" }, false));
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address holds the view, not a place in it
    byId("main").focus();
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("queries").addEventListener("click", (event) => {
    // On a narrow screen the proponents lie below the list.
    const isNarrow = matchMedia("(max-width: 56rem)").matches;
    if (event.target.closest("a") && isNarrow) byId("main").scrollIntoView();
  });
  const state = readState();
  if (!state.method && !state.other && !state.query) {
    const group = groupOf(state), first = await opened(group).catch(() => ({}));
    if (group.opening[0] || first.other) history.replaceState(null, "", addressFor({ ...state, ...first }));
  }
  addEventListener("hashchange", apply);
  await apply();
}

start();
