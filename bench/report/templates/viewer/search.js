// Passages that hold words: every text of the group is looked through once for a search.
const IN_PASSAGES = "passages"; // the field `in` of the address, where passages are searched
let latestSearch = { key: "" };

const searchWords = (state) => state.search.toLowerCase().split(/\s+/).filter(Boolean);
const searchesPassages = (state) => state.in === IN_PASSAGES && searchWords(state).length > 0;

// The passages that hold all words, and the queries whose lists name one, by any of the methods shown.
async function passageSearch(view, state) {
  if (!searchesPassages(state)) return null;
  const words = searchWords(state);
  const key = JSON.stringify([view.group.name, shownMethods(view).map((method) => method.place), words]);
  if (latestSearch.key !== key) {
    const own = { key, passages: new Set(), queries: new Set() };
    latestSearch = own;
    own.done = lookThrough(view, words, own);
  }
  await latestSearch.done;
  return latestSearch;
}

async function lookThrough(view, words, own) {
  const { group, queries } = view;
  const outdated = () => latestSearch !== own;
  for (let place = 0; place + 1 < group.passages.length && !outdated(); place++) {
    byId("count").textContent = `Searching ${Math.round((100 * place) / group.passages.length)}%`;
    const { text } = await load(`${group.name}-passages-${padded(place)}`);
    text.forEach((one, row) => {
      const lower = one.toLowerCase();
      if (words.every((word) => lower.includes(word))) own.passages.add(group.passages[place] + row);
    });
  }
  const chunksOfRanks = Math.ceil(queries.id.length / group.step);
  for (const method of shownMethods(view)) {
    for (let chunk = 0; chunk < chunksOfRanks && !outdated() && own.passages.size; chunk++) {
      const first = chunk * group.step;
      if (!method.measures.ranked.slice(first, first + group.step).includes("1")) continue; // no such file
      const entries = await load(`${group.name}-m${method.place}-ranks-${padded(chunk)}`);
      for (const [query, { p }] of Object.entries(entries)) {
        if (p.some((passage) => own.passages.has(passage))) own.queries.add(Number(query));
      }
    }
  }
}
