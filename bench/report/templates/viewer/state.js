// What is shown is in the address, so that every view has a link.
const FIELDS = ["task", "model", "method", "other", "third", "query", "search", "in", "filter", "score", "min",
  "max", "sort", "wins", "all", "keys"];
const SLICE = "by."; // by.relation=instrument

function readState() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const state = { slices: {} };
  for (const field of FIELDS) state[field] = parameters.get(field) ?? "";
  for (const [name, value] of parameters) {
    if (name.startsWith(SLICE)) state.slices[name.slice(SLICE.length)] = value;
  }
  return state;
}

function addressFor(state) {
  const parameters = new URLSearchParams();
  for (const field of FIELDS) if (state[field]) parameters.set(field, state[field]);
  for (const [name, value] of Object.entries(state.slices)) {
    if (value) parameters.set(SLICE + name, value);
  }
  return `#${parameters}`;
}

// `lasting` views go into the history; what changes with every key does not.
function go(changes, lasting = true) {
  const address = addressFor({ ...readState(), ...changes });
  if (address === location.hash) return;
  if (lasting) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  apply();
}
